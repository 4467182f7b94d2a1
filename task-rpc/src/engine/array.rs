//! An npy input, block by block: its header, then its elements over the borders of blocks.

use rustix::io::Errno;
use task_proto::fault::Fault;
use task_proto::number::Number;
use task_proto::wire::Attachment;

use super::Collector;
use super::npy::{Element, Header, MOST};
use super::raw::at;
use super::reader::unreadable;

/// Elements that are converted at once: as integers and as floats they fit the first cache.
const ELEMENTS: usize = 1024;

/// Reads the header of a regular file that begins at this offset. It may wait for the disk.
///
/// # Errors
/// `Malformed`, `Unreadable`.
pub(super) fn header(input: &Attachment, offset: u64) -> Result<Header, Fault> {
    let mut head = vec![0; MOST];
    let mut length = 0;
    loop {
        match rustix::io::pread(input, &mut head[length..], offset + length as u64) {
            Ok(0) => return Err(Header::cut_off(&head[..length])),
            Ok(more) => length += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(error)),
        }
        if let Some(header) = Header::parse(&head[..length])? {
            return Ok(header);
        }
    }
}

/// Turns bytes into numbers.
#[derive(Debug)]
pub(super) struct Array {
    header: Option<Header>,
    /// The header, as far as it has come, or the beginning of an element.
    begun: Vec<u8>,
    values: u64,
    /// Which of several inputs it is, for a warning.
    source: Option<usize>,
}

impl Array {
    /// What follows this header, or a whole input.
    pub(super) fn new(header: Option<Header>, source: Option<usize>) -> Self {
        Array { header, begun: Vec::new(), values: 0, source }
    }

    /// Hands the elements of one more block to the collector. The place of a fault is the position in the array.
    pub(super) fn push(&mut self, mut block: &[u8], collector: &mut Collector) -> Result<(), Fault> {
        if self.header.is_none() {
            let before = self.begun.len();
            self.begun.extend(&block[..block.len().min(MOST - before)]);
            self.header = Header::parse(&self.begun)?;
            if let Some(header) = &self.header {
                self.begun.clear();
                block = &block[header.data_offset - before..];
            }
        }
        let Some(header) = self.header else { return Ok(()) };
        let left = header.bytes() - self.taken(&header);
        if block.len() as u64 > left {
            return Err(header.exceeded());
        }
        let width = header.element.width();
        if !self.begun.is_empty() {
            let rest = block.split_off(..block.len().min(width - self.begun.len())).unwrap_or_default();
            self.begun.extend(rest);
            if self.begun.len() == width {
                let element = std::mem::take(&mut self.begun);
                self.take(header.element, &element, collector)?;
            }
        }
        let (elements, begun) = block.split_at(block.len() - block.len() % width);
        for elements in elements.chunks(ELEMENTS * width) {
            self.take(header.element, elements, collector)?;
        }
        self.begun.extend(begun);
        Ok(())
    }

    /// Says that there is no more.
    ///
    /// # Errors
    /// `Malformed`, if the header has not come whole, or promised more.
    pub(super) fn finish(self) -> Result<(), Fault> {
        match self.header {
            Some(header) => header.fits(self.taken(&header)),
            None => Err(Header::cut_off(&self.begun)),
        }
    }

    /// Bytes of elements so far.
    fn taken(&self, header: &Header) -> u64 {
        self.values * header.element.width() as u64 + self.begun.len() as u64
    }

    fn take(&mut self, element: Element, bytes: &[u8], collector: &mut Collector) -> Result<(), Fault> {
        let (mut ints, mut floats) = ([0; ELEMENTS], [0.0; ELEMENTS]);
        let count = bytes.len() / element.width();
        let (ints, floats) = (&mut ints[..count], &mut floats[..count]);
        match element {
            Element::Floats(element) => element.floats(bytes, floats),
            Element::Ints(element) => match element.ints(bytes, ints) {
                None => return self.collect(ints.iter().map(|&int| Number::Int(int)), collector),
                Some(huge) => {
                    let position = self.values + huge as u64 + 1;
                    collector.huge(format_args!("position {position}"), self.source);
                    element.floats(bytes, floats);
                }
            },
        }
        self.collect(floats.iter().map(|&float| Number::Float(float)), collector)
    }

    fn collect(
        &mut self,
        numbers: impl Iterator<Item = Number>,
        collector: &mut Collector,
    ) -> Result<(), Fault> {
        for number in numbers {
            self.values += 1;
            collector.number(number).map_err(|fault| at(fault, self.values))?;
        }
        Ok(())
    }
}
