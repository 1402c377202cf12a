//! The characters that stand for bytes in byte-level BPE (GPT-2's `bytes_to_unicode`).

/// The byte of a character: printable bytes map to themselves, the 68 others to U+0100 and up, in
/// order.
pub(super) fn byte_of_char(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let bytes: HashSet<u8> =
            ByteLevel::alphabet().into_iter().map(|c| byte_of_char(c).unwrap()).collect();
        assert_eq!(bytes.len(), 256);
        for (c, expected) in [
            ('A', Some(b'A')),
            ('Ġ', Some(b' ')),
            ('Ċ', Some(b'\n')),
            ('ł', Some(0xa0)),
            ('語', None),
        ] {
            assert_eq!(byte_of_char(c), expected, "{c}");
        }
    }
}
