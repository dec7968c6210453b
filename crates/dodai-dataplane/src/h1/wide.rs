//! Looks at sixteen bytes of a head at once, by the vector instructions that every x86-64 and aarch64 has.

use wide::u8x16;

/// How many bytes are looked at.
pub const BYTES: usize = 16;

/// The first byte that is neither a letter nor a digit nor `-`: of most names, only what ends them.
#[inline]
pub fn first_not_plain(block: &[u8; BYTES]) -> Option<usize> {
    let bytes = u8x16::new(*block);
    let letter = (bytes | u8x16::splat(0x20)) - u8x16::splat(b'a');
    let digit = bytes - u8x16::splat(b'0');
    let dash = bytes.simd_eq(u8x16::splat(b'-'));
    first(!(letter.simd_le(u8x16::splat(25)) | digit.simd_le(u8x16::splat(9)) | dash))
}

/// The first control character.
#[inline]
pub fn first_control(block: &[u8; BYTES]) -> Option<usize> {
    let bytes = u8x16::new(*block);
    first(bytes.simd_le(u8x16::splat(0x1f)) | bytes.simd_eq(u8x16::splat(0x7f)))
}

#[inline]
fn first(found: u8x16) -> Option<usize> {
    let mask = found.to_bitmask();
    (mask != 0).then(|| mask.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_what_it_is_wherever_it_stands() {
        for byte in 0..=255_u8 {
            let plain = byte.is_ascii_alphanumeric() || byte == b'-';
            let control = byte < 0x20 || byte == 0x7f;
            for place in 0..BYTES {
                let mut block = [b'x'; BYTES];
                block[place] = byte;
                assert_eq!(first_not_plain(&block), (!plain).then_some(place), "{byte:#x} at {place}");
                assert_eq!(first_control(&block), control.then_some(place), "{byte:#x} at {place}");
                // What stands behind the first one changes nothing.
                block[place..].fill(byte);
                assert_eq!(first_not_plain(&block), (!plain).then_some(place), "{byte:#x} from {place}");
                assert_eq!(first_control(&block), control.then_some(place), "{byte:#x} from {place}");
            }
        }
    }
}
