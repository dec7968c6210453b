//! What a file is, told from its first bytes, before any compiler sees it.

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
