//! Reads a file line by line from its end, a block at a time: the last lines of a large file cost little.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use task_proto::limits::LOG_RECORD;

use crate::store::LogFile;

const BLOCK: u64 = 64 * 1024;

/// A file that is read backward from a fixed end; what is appended later is not seen.
#[derive(Debug)]
pub struct Backward<'a> {
    file: &'a File,
    /// What lies before here is not read yet.
    unread: u64,
    /// Bytes from `unread` on, up to where lines were handed out.
    begun: Vec<u8>,
    /// The line at hand is over [`LOG_RECORD`]: its end is thrown away.
    too_long: bool,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Without its newline.
    Whole(Vec<u8>),
    /// One that is longer than any record.
    TooLong,
}

impl<'a> Backward<'a> {
    /// Reads the file as it was when it was opened.
    pub fn new(log: &'a LogFile) -> Self {
        Backward::of(&log.file, log.length)
    }

    fn of(file: &'a File, length: u64) -> Self {
        Backward { file, unread: length, begun: Vec::new(), too_long: false }
    }

    /// The line before; `None` at the file's beginning. Empty lines are left out.
    pub fn previous(&mut self) -> io::Result<Option<Line>> {
        loop {
            while let Some(newline) = self.begun.iter().rposition(|&byte| byte == b'\n') {
                let line = self.begun.split_off(newline + 1);
                self.begun.pop();
                if let Some(line) = self.hand_out(line) {
                    return Ok(Some(line));
                }
            }
            if self.begun.len() > LOG_RECORD {
                self.too_long = true;
                self.begun.clear();
            }
            if self.unread == 0 {
                let line = std::mem::take(&mut self.begun);
                return Ok(self.hand_out(line));
            }
            self.read_block()?;
        }
    }

    fn hand_out(&mut self, line: Vec<u8>) -> Option<Line> {
        if std::mem::take(&mut self.too_long) {
            return Some(Line::TooLong);
        }
        (!line.is_empty()).then_some(Line::Whole(line))
    }

    fn read_block(&mut self) -> io::Result<()> {
        let length = self.unread.min(BLOCK);
        let mut block = vec![0; length as usize];
        self.unread -= length;
        self.file.read_exact_at(&mut block, self.unread)?;
        block.append(&mut self.begun);
        self.begun = block;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(content: &[u8]) -> Vec<Line> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let mut backward = Backward::of(&file, content.len() as u64);
        std::iter::from_fn(|| backward.previous().unwrap()).collect()
    }

    fn whole(line: &str) -> Line {
        Line::Whole(line.as_bytes().to_vec())
    }

    #[test]
    fn lines_come_from_the_last_to_the_first() {
        assert_eq!(lines(b"one\ntwo\n\nthree\n"), [whole("three"), whole("two"), whole("one")]);
        assert_eq!(lines(b"one\ntwo"), [whole("two"), whole("one")]);
        assert_eq!(lines(b"\n\n"), []);
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn lines_that_lie_across_blocks_are_whole() {
        // Lengths that put the borders of blocks everywhere within a line.
        let forward: Vec<String> = (0..3000).map(|n| format!("{n}{}", "x".repeat(n % 131))).collect();
        let read = lines((forward.join("\n") + "\n").as_bytes());
        assert_eq!(read, forward.iter().rev().map(|line| whole(line)).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_longer_than_any_record_costs_no_memory_and_hides_no_other() {
        let long = "x".repeat(LOG_RECORD * 3);
        assert_eq!(lines(format!("{long}\none\n").as_bytes()), [whole("one"), Line::TooLong]);
        assert_eq!(
            lines(format!("one\n{long}\ntwo\n").as_bytes()),
            [whole("two"), Line::TooLong, whole("one")]
        );
    }
}
