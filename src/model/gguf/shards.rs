//! GGUF models that were split into several files: `MODEL-00001-of-00003.gguf` and so on.

use std::io;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::model::file::{PositionedFile, file_name};

/// One file of a model.
pub(super) struct Shard {
    pub(super) path: PathBuf,
    pub(super) file: PositionedFile,
}

/// The paths of all shards in order, given one of them; `None` for a name of another form.
pub(in crate::model) fn shard_paths(path: &Path) -> Option<Vec<PathBuf>> {
    let (model, number, count) = parse_shard_name(file_name(path))?;
    let shard = |number: usize| path.with_file_name(shard_name(model, number, count));
    (1..=count).contains(&number).then(|| (1..=count).map(shard).collect())
}

/// The model, the shard's number from 1, and the number of shards; `None` for a name of another
/// form.
pub(in crate::model) fn parse_shard_name(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (model, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| -> Option<usize> {
        (digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .then(|| digits.parse().ok())?
    };
    Some((model, parse(number)?, parse(count)?))
}

/// The file name of a shard.
pub(in crate::model) fn shard_name(model: &str, number: usize, count: usize) -> String {
    format!("{model}-{number:05}-of-{count:05}.gguf")
}

/// The concatenated bytes of all shards.
pub(super) struct ConcatReader<'a> {
    pub(super) shards: &'a [Shard],
    pub(super) offset: u64,
}

impl Read for ConcatReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut start = 0;
        for Shard { file, .. } in self.shards {
            let offset = self.offset - start;
            if offset < file.size {
                let count = (buffer.len() as u64).min(file.size - offset) as usize;
                file.fill(offset, &mut buffer[..count])?;
                self.offset += count as u64;
                return Ok(count);
            }
            start += file.size;
        }
        Ok(0)
    }
}

impl Seek for ConcatReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let size: u64 = self.shards.iter().map(|shard| shard.file.size).sum();
        let offset = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => size.checked_add_signed(by),
            SeekFrom::Current(by) => self.offset.checked_add_signed(by),
        };
        self.offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.offset)
    }
}
