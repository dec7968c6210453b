//! What a file is, told from its first bytes, before any compiler sees it.

use crate::engine::Flavour;
use crate::error::BadModule;

const MAGIC: &[u8] = b"\0asm";
const ELF: &[u8] = b"\x7fELF";

/// Checks that `bytes` begin like a component. `name` is what the user calls the file.
pub fn check_header(name: &str, bytes: &[u8]) -> Result<(), BadModule> {
    let name = name.to_owned();
    if bytes.is_empty() {
        return Err(BadModule::Empty(name));
    }
    if bytes.starts_with(ELF) {
        return Err(BadModule::Compiled(name));
    }
    if is_text(bytes) {
        return Err(BadModule::Text(name));
    }
    if !bytes.starts_with(MAGIC) {
        return Err(BadModule::NotWasm { name, start: start_of(bytes) });
    }
    // The preamble: magic, then version and layer as two 16-bit numbers (component-model Binary.md).
    let &[_, _, _, _, v0, v1, l0, l1, ..] = bytes else {
        return Err(BadModule::Invalid(cut(&name, bytes.len())));
    };
    match (u16::from_le_bytes([v0, v1]), u16::from_le_bytes([l0, l1])) {
        (13, 1) => Ok(()),
        (1, 0) => Err(BadModule::CoreModule(name)),
        (version, layer) => Err(BadModule::Version { name, version, layer }),
    }
}

/// The engine that a component needs: the concurrent one if it imports or exports something of WASI 0.3.
pub(crate) fn flavour_of(component: &[u8]) -> Flavour {
    match outer_names(component).any(|names| names.windows(5).any(|window| window == b"@0.3.")) {
        true => Flavour::Concurrent,
        false => Flavour::Serial,
    }
}

/// The import and export sections of a component itself, not of what is nested in it. Ends where the file
/// makes no sense; the compiler says why.
fn outer_names(component: &[u8]) -> impl Iterator<Item = &[u8]> {
    // Section numbers of component-model Binary.md.
    const IMPORTS: u8 = 10;
    const EXPORTS: u8 = 11;
    let mut rest = component.get(8..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&number, after) = rest.split_first()?;
        let (length, after) = leb128(after)?;
        let section = after.get(..length)?;
        rest = &after[length..];
        Some((number, section))
    })
    .filter_map(|(number, section)| matches!(number, IMPORTS | EXPORTS).then_some(section))
}

/// An unsigned 32-bit number of the binary format, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0u64;
    for (at, byte) in bytes.iter().enumerate().take(5) {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(number).ok()?, &bytes[at + 1..]));
        }
    }
    None
}

/// Turns the compiler's refusal into a sentence for the user.
pub(crate) fn refusal(name: &str, length: usize, error: &wasmtime::Error) -> BadModule {
    let reason = format!("{error:#}");
    // A section or an item that goes on behind the end of the file.
    let is_cut = reason.contains("unexpected end") || reason.contains(&format!("(bound = {length})"));
    let sentence =
        if is_cut { cut(name, length) } else { format!("{name} is not a valid component: {reason}") };
    BadModule::Invalid(sentence)
}

fn cut(name: &str, length: usize) -> String {
    format!("{name} ends in the middle, after {length} bytes; it was cut in transfer, send it again")
}

fn is_text(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start();
    text.starts_with(b"(module") || text.starts_with(b"(component") || text.starts_with(b";;")
}

fn start_of(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(8)];
    format!("`{}`", start.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_told_from_the_outer_names() {
        let check = |text: &str, expect: Flavour| {
            assert_eq!(flavour_of(&wat::parse_str(text).expect("valid text")), expect, "{text}");
        };
        check("(component)", Flavour::Serial);
        check("(component (import \"wasi:random/random@0.2.0\" (instance)))", Flavour::Serial);
        check("(component (import \"wasi:random/random@0.3.0\" (instance)))", Flavour::Concurrent);
        let text = |place: &str| {
            format!("(component {place} (instance $i) (export \"wasi:http/handler@0.3.1\" (instance $i)))")
        };
        check(&text("(core module (memory 1) (data (i32.const 0) \"some text\"))"), Flavour::Concurrent);
        check(&format!("(component {})", text("")), Flavour::Serial);
        check("(component (core module (memory 1) (data (i32.const 0) \"@0.3.0\")))", Flavour::Serial);
        for cut in [
            &b""[..],
            b"\0asm\x0d\0\x01\0",
            b"\0asm\x0d\0\x01\0\x0a\xff\xff\xff\xff\xff\xff",
            b"\0asm\x0d\0\x01\0\x0a\x7f",
        ] {
            assert_eq!(flavour_of(cut), Flavour::Serial);
        }
    }
}
