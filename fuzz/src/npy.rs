//! The npy format: a header is the same however much follows it, and elements are the same one by one as many at once.

use task_worker::engine::npy::{Element, Header, MOST};

/// The first byte says where a file is cut, the rest is the file.
pub fn npy(data: &[u8]) -> u64 {
    let Some((&cut, file)) = data.split_first() else { return 0 };
    let whole = Header::parse(file);
    for end in [file.len() * usize::from(cut) / 256, usize::from(cut).min(file.len())] {
        match Header::parse(&file[..end]) {
            // What is known of a part is known of the whole.
            Ok(None) => assert!(!Header::cut_off(&file[..end]).message.is_empty()),
            known => assert_eq!(known, whole),
        }
    }
    let header = match whole {
        Ok(Some(header)) => header,
        Ok(None) => {
            let longest: Vec<u8> = file.iter().copied().chain(std::iter::repeat(0)).take(MOST).collect();
            assert_ne!(Header::parse(&longest), Ok(None), "so many bytes tell all");
            return 1;
        }
        Err(fault) => {
            assert!(fault.message.len() < 1000, "{fault}");
            return 1;
        }
    };
    let elements = &file[header.data_offset..];
    assert_eq!(header.fits(elements.len() as u64).is_ok(), header.bytes() == elements.len() as u64);
    let width = header.element.width();
    let elements = &elements[..elements.len() / width * width];
    match header.element {
        Element::Ints(element) => {
            let ints = |bytes: &[u8]| {
                let mut ints = vec![0; bytes.len() / width];
                (element.ints(bytes, &mut ints), ints)
            };
            let (huge, many) = ints(elements);
            let singles: Vec<_> = elements.chunks(width).map(ints).collect();
            assert_eq!(huge, singles.iter().position(|(huge, _)| huge.is_some()));
            assert_eq!(many, singles.iter().flat_map(|(_, int)| int).copied().collect::<Vec<_>>());
            same(elements, width, |bytes, out| element.floats(bytes, out));
        }
        Element::Floats(element) => same(elements, width, |bytes, out| element.floats(bytes, out)),
    }
    1
}

fn same(elements: &[u8], width: usize, floats: impl Fn(&[u8], &mut [f64])) {
    let floats = |bytes: &[u8]| {
        let mut all = vec![0.0; bytes.len() / width];
        floats(bytes, &mut all);
        // A signalling NaN may become a quiet one: it is missing, either way.
        all.into_iter().map(|float| if float.is_nan() { None } else { Some(float.to_bits()) }).collect()
    };
    let many: Vec<_> = floats(elements);
    assert_eq!(
        many,
        elements.chunks(width).flat_map(|bytes| -> Vec<_> { floats(bytes) }).collect::<Vec<_>>()
    );
}
