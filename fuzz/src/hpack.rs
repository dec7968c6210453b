//! HPACK: what was read is written and read again as it was, and a limit only leaves fields out.

use dodai_dataplane::h2::{Block, Decoder, Encoder};

/// The first byte says where the rest is split into two blocks, and whether literals are written in Huffman code.
pub fn target(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let cut = usize::from(choice >> 1).min(bytes.len());
    let (mut decoder, mut bounded) = (Decoder::default(), Decoder::default());
    let (mut encoder, mut again) = (Encoder::new(choice & 1 == 1), Decoder::default());
    for coded in [&bytes[..cut], &bytes[cut..]] {
        let (mut block, mut small) = (Block::new(), Block::new());
        let read = decoder.decode(coded, &mut block, usize::MAX);
        assert_eq!(read, bounded.decode(coded, &mut small, 200));
        if read.is_err() {
            return;
        }
        assert!(small.len() <= block.len() && small.size() <= 200);
        let mut written = Vec::new();
        encoder.begin(&mut written);
        for (name, value, sensitive) in block.iter() {
            encoder.field(name, value, sensitive, &mut written);
        }
        let mut back = Block::new();
        again.decode(&written, &mut back, usize::MAX).expect("we read what we write");
        let pairs = |block: &Block| -> Vec<_> {
            block.iter().map(|(name, value, _)| (name.to_vec(), value.to_vec())).collect()
        };
        assert_eq!(pairs(&block), pairs(&back));
    }
}
