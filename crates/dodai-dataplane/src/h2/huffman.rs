//! The Huffman code of HPACK (RFC 7541 appendix B), which is canonical: the lengths say everything.
//!
//! Decoding walks the tree four bits at a time by a table that is computed when this is compiled. No code is shorter
//! than five bits, so that no step gives more than one byte.

/// The bits of each byte's code; the last is the end of a string, which must not be sent.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, // 0x00
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, // 0x10
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, // 0x20
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, // 0x30
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, // 0x40
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, // 0x50
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, // 0x60
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, // 0x70
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, // 0x80
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, // 0x90
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, // 0xa0
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, // 0xb0
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, // 0xc0
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, // 0xd0
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, // 0xe0
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, // 0xf0
    30,
];
const END: usize = 256;

/// Codes in order of length, then of byte: each is one more than the one before, with zeros behind it.
const CODES: [u32; 257] = {
    let mut codes = [0; 257];
    let (mut code, mut length) = (0, 5);
    while length <= 30 {
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] == length {
                codes[symbol] = code;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    codes
};

/// One step of decoding: where it leads, and what it gives.
#[derive(Clone, Copy)]
struct Step {
    state: u8,
    flags: u8,
    byte: u8,
}

/// The step gives a byte.
const GIVES: u8 = 1;
/// A string may end here: what is left is fewer than eight bits of ones.
const MAY_END: u8 = 2;
/// No string goes this way.
const BROKEN: u8 = 4;

/// An inner node of the tree for each state; its children are nodes, or symbols from `LEAF` on.
const LEAF: u16 = 256;
const TREE: [[u16; 2]; 256] = {
    let mut tree = [[0u16; 2]; 256];
    let mut nodes = 1;
    let mut symbol = 0;
    while symbol < 257 {
        let mut node = 0;
        let mut bit = LENGTHS[symbol];
        while bit > 1 {
            bit -= 1;
            let way = ((CODES[symbol] >> bit) & 1) as usize;
            if tree[node][way] == 0 {
                tree[node][way] = nodes;
                nodes += 1;
            }
            node = tree[node][way] as usize;
        }
        tree[node][(CODES[symbol] & 1) as usize] = LEAF + symbol as u16;
        symbol += 1;
    }
    tree
};

const STEPS: [[Step; 16]; 256] = {
    let mut may_end = [false; 256];
    let (mut node, mut ones) = (0, 0);
    while ones < 8 {
        may_end[node] = true;
        node = TREE[node][1] as usize;
        ones += 1;
    }
    let mut steps = [[Step { state: 0, flags: 0, byte: 0 }; 16]; 256];
    let mut state = 0;
    while state < 256 {
        let mut four = 0;
        while four < 16 {
            let mut step = Step { state: 0, flags: 0, byte: 0 };
            let (mut node, mut bit) = (state, 4);
            while bit > 0 {
                bit -= 1;
                let next = TREE[node][(four >> bit) & 1];
                if next < LEAF {
                    node = next as usize;
                } else if next == LEAF + END as u16 {
                    step.flags |= BROKEN;
                    node = 0;
                } else {
                    step.flags |= GIVES;
                    step.byte = (next - LEAF) as u8;
                    node = 0;
                }
            }
            step.state = node as u8;
            if may_end[node] {
                step.flags |= MAY_END;
            }
            steps[state][four] = step;
            four += 1;
        }
        state += 1;
    }
    steps
};
static DECODE: [[Step; 16]; 256] = STEPS;

/// Appends the decoded string to `out`. `None` if it is not one of this code.
pub fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut state, mut flags) = (0u8, MAY_END);
    for &byte in coded {
        for four in [byte >> 4, byte & 15] {
            let step = DECODE[usize::from(state)][usize::from(four)];
            if step.flags & GIVES != 0 {
                out.push(step.byte);
            }
            (state, flags) = (step.state, step.flags);
            if flags & BROKEN != 0 {
                return None;
            }
        }
    }
    (flags & MAY_END != 0).then_some(())
}

/// How many bytes `text` takes encoded.
pub fn length(text: &[u8]) -> usize {
    text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum::<usize>().div_ceil(8)
}

/// Appends `text` encoded to `out`.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut held) = (0u64, 0u32);
    for &byte in text {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = (bits << length) | u64::from(CODES[usize::from(byte)]);
        held += length;
        while held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    if held > 0 {
        let padding = 8 - held;
        out.push(((bits << padding) | ((1 << padding) - 1)) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_the_specification() {
        // RFC 7541 appendix C.4 and C.6.
        let check = |text: &str, coded: &[u8]| {
            let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
            encode(text.as_bytes(), &mut encoded);
            assert_eq!((encoded.as_slice(), length(text.as_bytes())), (coded, coded.len()), "{text}");
            assert_eq!(decode(coded, &mut decoded), Some(()), "{text}");
            assert_eq!(decoded, text.as_bytes());
        };
        check("www.example.com", &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]);
        check("no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]);
        check("302", &[0x64, 0x02]);
        check("private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]);
        check("", &[]);
    }

    #[test]
    fn bad_ends_are_refused() {
        let check = |coded: &[u8], good: bool| {
            assert_eq!(decode(coded, &mut Vec::new()).is_some(), good, "{coded:x?}");
        };
        check(&[0x1f], true); // a, then three ones
        check(&[0x18], false); // a, then three zeros
        check(&[0x1f, 0xff], false); // more than seven bits of padding
        check(&[0xff, 0xff, 0xff, 0xff], false); // the end of a string, sent
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
            encode(&text, &mut encoded);
            prop_assert_eq!(encoded.len(), length(&text));
            prop_assert_eq!(decode(&encoded, &mut decoded), Some(()));
            prop_assert_eq!(decoded, text);
        }
    }
}
