use super::*;

/// A file of this version with this header's text, and these elements.
fn file(version: [u8; 2], text: &str, elements: &[u8]) -> Vec<u8> {
    let mut file = [MAGIC, &version].concat();
    if version[0] == 1 {
        file.extend((text.len() as u16).to_le_bytes());
    } else {
        file.extend((text.len() as u32).to_le_bytes());
    }
    file.extend(text.as_bytes());
    file.extend(elements);
    file
}

/// As NumPy writes it.
fn dictionary(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}    \n")
}

fn header(descr: &str, shape: &str) -> Result<Option<Header>, Fault> {
    Header::parse(&file([1, 0], &dictionary(descr, shape), &[]))
}

fn said(text: &str) -> String {
    let fault = Header::parse(&file([1, 0], text, &[])).expect_err(text);
    assert_eq!((fault.kind, fault.line, fault.column), (FaultKind::Malformed, None, None), "{text}");
    fault.message
}

#[test]
fn a_header_that_numpy_wrote_is_read_once_it_is_whole_whatever_its_version() {
    let saved = b"\x93NUMPY\x01\x00v\x00{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }\
                  \x20                                                           \n\x01\0\0\0\0\0\0\0";
    let read = Header::parse(saved).unwrap().unwrap();
    let element = Element::Ints(Ints { scalar: Int::I64, big_endian: false });
    assert_eq!(read, Header { data_offset: 128, values: 3, element });
    for version in [[1, 0], [2, 0], [3, 0]] {
        let file = file(version, &dictionary("<f8", "(7,)"), &[0; 3]);
        let read = Header::parse(&file).unwrap().unwrap();
        assert_eq!((read.data_offset, read.values, read.bytes()), (file.len() - 3, 7, 56));
        for end in 0..file.len() - 3 {
            assert_eq!(Header::parse(&file[..end]).unwrap(), None, "{end}");
            let cut = Header::cut_off(&file[..end]).message;
            assert!(end == 0 || cut.contains(&format!("after byte {end}")), "{cut}");
        }
    }
}

#[test]
fn what_python_takes_for_the_same_dictionary_is_the_same() {
    let expected = header("<f8", "(3,)").unwrap().unwrap();
    for text in [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}",
        "{'shape':(3,),'fortran_order':True,'descr':'<f8'}",
        " { \"descr\" :\t\"<f8\" , \"fortran_order\" : False , \"shape\" : ( 3 , ) , }\r\n\n",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3L,), }",
    ] {
        let read = Header::parse(&file([2, 0], text, &[])).unwrap().unwrap();
        assert_eq!((read.values, read.element), (expected.values, expected.element), "{text}");
    }
}

#[test]
fn each_dtype_has_its_width_and_order() {
    for (descr, width) in [
        ("f8", 8),
        ("f4", 4),
        ("i8", 8),
        ("i4", 4),
        ("i2", 2),
        ("i1", 1),
        ("u8", 8),
        ("u4", 4),
        ("u2", 2),
        ("u1", 1),
    ] {
        for order in ["<", ">", "|", "=", ""] {
            let element = header(&format!("{order}{descr}"), "(1,)").unwrap().unwrap().element;
            assert_eq!(element.width(), width);
            let (Element::Ints(Ints { big_endian, .. }) | Element::Floats(Floats { big_endian, .. })) =
                element;
            assert_eq!(big_endian, order == ">" || order != "<" && cfg!(target_endian = "big"), "{order}");
        }
    }
}

#[test]
fn a_header_that_is_not_read_is_quoted_with_what_is_wrong() {
    let plain = "f8, f4, i8, i4, i2, i1, u8, u4, u2 and u1";
    for descr in ["<c16", "|b1", "<f2", "<f16", "|S5", "<U3", "|O", "<M8[ns]", "", "<", "<<f8", "<f88"] {
        let expected = format!("the npy header says dtype \"{descr}\", which is not read: {plain} are");
        assert_eq!(said(&dictionary(descr, "(3,)")), expected);
    }
    let structured = "{'descr': [('a', '<i4'), ('b', '<f8')], 'fortran_order': False, 'shape': (3,), }";
    assert!(
        said(structured).starts_with("the npy header says \"descr\": [(\\'a\\', \\'<i4\\'), "),
        "{}",
        said(structured)
    );
    for (shape, shown) in [("()", "()"), ("(3, 4)", "(3, 4)"), ("(3,1,)", "(3, 1)"), ("(0, 0)", "(0, 0)")] {
        assert_eq!(
            said(&dictionary("<f8", shape)),
            format!("the npy header says shape {shown}, and one dimension is read; array.ravel() has one")
        );
    }
    let many = said(&dictionary("<f8", &format!("({})", "1, ".repeat(30))));
    assert!(many.contains("(1, 1, 1, 1, 1, 1, 1, 1, …)"), "{many}");
    for (text, expected) in [
        ("", "the npy header ends before its dictionary does"),
        ("{'descr': '<f8', 'shape': (3,), }", "the npy header does not say \"fortran_order\""),
        ("{'fortran_order': False, 'shape': (3,), }", "the npy header does not say \"descr\""),
        ("{'descr': '<f8', 'fortran_order': False}", "the npy header does not say \"shape\""),
        ("{'descr': '<f8', 'descr': '<f8'}", "the npy header says \"descr\" twice"),
        ("{'x': 1}", "the npy header says \"x\", of which npy knows nothing"),
    ] {
        assert_eq!(said(text), expected);
    }
    for (text, at) in [
        ("import os", 1),
        ("{'descr': __import__('os')}", 11),
        ("{'descr': '<f8' + ''}", 17),
        ("{'descr': '\\x3cf8'}", 12),
        ("{'descr': '<f8}", 12),
        ("{'fortran_order': 0}", 19),
        ("{'shape': 3}", 11),
        ("{'shape': (3)}", 13),
        ("{'shape': (-3,)}", 12),
        ("{'shape': (3.0,)}", 13),
        ("{'shape': (None,)}", 12),
        ("{'shape': (3 4)}", 14),
        ("{,}", 2),
    ] {
        let said = said(text);
        assert!(said.contains(&format!("makes no sense from its byte {at} on: ")), "{text}: {said}");
    }
    let behind = said(&(dictionary("<f8", "(3,)") + "x"));
    assert!(behind.ends_with(": \"x\""), "{behind}");
}

#[test]
fn sizes_that_no_file_has_are_refused_before_they_are_computed_with() {
    let most = i64::MAX as u64;
    for shape in [most / 8 + 1, most, u64::MAX / 8 + 1, u64::MAX] {
        let fault = header("<f8", &format!("({shape},)")).unwrap_err();
        assert!(fault.message.contains("more than a file can hold"), "{fault}");
    }
    let fault = header("<f8", "(18446744073709551616,)").unwrap_err();
    assert!(fault.message.contains("18446744073709551616, which is more"), "{fault}");
    assert_eq!(header("|u1", &format!("({},)", most - 1000)).unwrap().unwrap().bytes(), most - 1000);
}

#[test]
fn what_is_no_npy_file_is_told_at_its_first_byte() {
    let message = |bytes: &[u8]| Header::parse(bytes).unwrap_err().message;
    assert_eq!(
        message(b"1 2 3\n"),
        "this is no npy file: it begins with \"1 2 3\\n\", not with \"\\x93NUMPY\""
    );
    assert!(message(b"\x93NUMBY").contains("no npy file"));
    assert_eq!(Header::parse(b"1 2"), Ok(None), "as if the rest were still to come");
    assert!(Header::cut_off(b"1 2").message.contains("it begins with \"1 2\", not"));
    assert_eq!(message(b"\x93NUMPY\x04\x00"), "the npy header says version 4.0; 1.0, 2.0 and 3.0 are read");
    assert_eq!(message(b"\x93NUMPY\x01\x07"), "the npy header says version 1.7; 1.0, 2.0 and 3.0 are read");
    assert_eq!(
        message(b"\x93NUMPY\x02\x00\xff\xff\xff\xff"),
        "the npy header says that it has 4294967295 bytes; at most 65535 are read"
    );
    let longest = file([1, 0], &format!("{:65535}", dictionary("<f8", "(1,)")), &[]);
    assert!(longest.len() <= MOST && Header::parse(&longest).unwrap().is_some());
}

#[test]
fn a_size_that_does_not_fit_is_told_with_both_sizes() {
    let header = header("<i2", "(5,)").unwrap().unwrap();
    header.fits(10).unwrap();
    let fault = header.fits(7).unwrap_err();
    assert_eq!(fault.message, "the npy header says 5 values of 2 bytes, 10 bytes, and 7 bytes follow");
    assert_eq!((fault.kind, fault.column), (FaultKind::Malformed, Some(4)), "at the first that is not whole");
    let fault = header.fits(11).unwrap_err();
    assert_eq!(
        (&fault.message[..], fault.column),
        ("the npy header says 5 values of 2 bytes, 10 bytes, and 11 bytes follow", None)
    );
}

/// Each scalar type: its name, and some of its values in one order, as bytes and as `Number`s would show them.
macro_rules! converted {
    ($($name:literal $scalar:ty: [$($value:expr),*]),* $(,)?) => {
        vec![$(
            ($name, true, [$($value),*].iter().flat_map(|v: &$scalar| v.to_le_bytes()).collect::<Vec<u8>>(), vec![$(i128::from($value)),*]),
            ($name, false, [$($value),*].iter().flat_map(|v: &$scalar| v.to_be_bytes()).collect::<Vec<u8>>(), vec![$(i128::from($value)),*]),
        )*]
    };
}

#[test]
fn integers_of_every_width_and_order_are_what_they_are() {
    for (name, little, bytes, values) in converted! {
        "i1" i8: [i8::MIN, -1, 0, 1, i8::MAX],
        "i2" i16: [i16::MIN, -1, 0, 258, i16::MAX],
        "i4" i32: [i32::MIN, -1, 0, 0x0102_0304, i32::MAX],
        "i8" i64: [i64::MIN, -1, 0, (1_i64 << 53) + 1, i64::MAX],
        "u1" u8: [0, 1, 128, u8::MAX],
        "u2" u16: [0, 1, 258, u16::MAX],
        "u4" u32: [0, 1, 0x8000_0001_u32, u32::MAX],
        "u8" u64: [0, 1, (1_u64 << 53) + 1, i64::MAX as u64],
    } {
        let descr = format!("{}{name}", if little { '<' } else { '>' });
        let Element::Ints(element) = Element::named(descr.as_bytes()).unwrap() else { panic!("{descr}") };
        // Many times, for the loops of vectors and what is left of them.
        for times in [1, 7, 64] {
            let (bytes, values) = (bytes.repeat(times), values.repeat(times));
            let mut ints = vec![0; values.len()];
            assert_eq!(element.ints(&bytes, &mut ints), None, "{descr}");
            assert!(ints.iter().map(|&int| i128::from(int)).eq(values.iter().copied()), "{descr}: {ints:?}");
            let mut floats = vec![0.0; values.len()];
            element.floats(&bytes, &mut floats);
            assert!(
                floats.iter().eq(values.iter().map(|&int| int as f64).collect::<Vec<_>>().iter()),
                "{descr}"
            );
        }
    }
}

#[test]
fn floats_of_either_width_and_order_are_exact() {
    let values = [0.0, -0.0, 1.5, f32::MIN_POSITIVE / 4.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 0.1];
    let singles = |to: fn(f32) -> [u8; 4]| values.into_iter().flat_map(to).collect::<Vec<_>>();
    let doubles = |to: fn(f64) -> [u8; 8]| values.into_iter().map(f64::from).flat_map(to).collect::<Vec<_>>();
    for (descr, bytes) in [
        ("<f4", singles(f32::to_le_bytes)),
        (">f4", singles(f32::to_be_bytes)),
        ("<f8", doubles(f64::to_le_bytes)),
        (">f8", doubles(f64::to_be_bytes)),
    ] {
        let Element::Floats(element) = Element::named(descr.as_bytes()).unwrap() else { panic!("{descr}") };
        let mut floats = vec![0.0; values.len()];
        element.floats(&bytes, &mut floats);
        let bits = |floats: Vec<f64>| floats.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(floats), bits(values.map(f64::from).to_vec()), "{descr}");
    }
    assert!(matches!(Element::named(b"<f8").unwrap(), Element::Floats(floats) if floats.in_place()));
    assert!(matches!(Element::named(b"<i8").unwrap(), Element::Ints(ints) if ints.in_place()));
    for other in [">f8", "<f4", ">i8", "<u8", "<i4"] {
        let in_place = match Element::named(other.as_bytes()).unwrap() {
            Element::Ints(ints) => ints.in_place(),
            Element::Floats(floats) => floats.in_place(),
        };
        assert!(!in_place, "{other}");
    }
}

#[test]
fn an_integer_beyond_i64_is_found_wherever_it_is() {
    let Element::Ints(element) = Element::named(b"<u8").unwrap() else { panic!() };
    for huge in [0, 1, 30, 98] {
        let mut values = vec![5_u64; 99];
        values[huge] = 1 << 63;
        values[98] = u64::MAX;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(element.ints(&bytes, &mut vec![0; 99]), Some(huge));
        let mut floats = vec![0.0; 99];
        element.floats(&bytes, &mut floats);
        assert_eq!(
            (floats[huge].log2() - 63.0, floats[98]),
            (f64::from(u8::from(huge == 98)), 2f64.powi(64))
        );
    }
}
