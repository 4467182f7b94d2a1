//! `MessagePack` as tarpc clients write it, read in half the time that `rmp-serde` takes, many numbers in a third.
//!
//! Whatever is read here is what `rmp-serde` reads, too, for types whose code is serde's own or derived; what is not (a wrong
//! message, and forms that nobody writes) is read again by `rmp-serde`, which knows better, or says what is wrong. So no error
//! has a text.

use std::fmt;

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};

/// It was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unread;

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it cannot be unpacked")
    }
}

impl std::error::Error for Unread {}

impl de::Error for Unread {
    #[cold]
    fn custom<T: fmt::Display>(_: T) -> Self {
        Unread
    }
}

type Read<T> = Result<T, Unread>;

/// Lists and maps in each other; more are read on a stack that this module knows nothing of.
const DEPTH: u32 = 64;

/// The message that these bytes begin with.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Read<T> {
    T::deserialize(&mut Unpacker { rest: bytes, depth: DEPTH })
}

#[derive(Debug)]
struct Unpacker<'de> {
    rest: &'de [u8],
    depth: u32,
}

impl<'de> Unpacker<'de> {
    #[inline]
    fn byte(&mut self) -> Read<u8> {
        let (&byte, rest) = self.rest.split_first().ok_or(Unread)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    fn bytes<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(Unread)?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn slice(&mut self, length: usize) -> Read<&'de [u8]> {
        let (slice, rest) = self.rest.split_at_checked(length).ok_or(Unread)?;
        self.rest = rest;
        Ok(slice)
    }

    /// How long the list is that begins with this mark.
    #[inline]
    fn list_length(&mut self, mark: u8) -> Read<u32> {
        match mark {
            0x90..0xa0 => Ok((mark & 0xf).into()),
            0xdc => Ok(u16::from_be_bytes(self.bytes()?).into()),
            0xdd => Ok(u32::from_be_bytes(self.bytes()?)),
            _ => Err(Unread),
        }
    }

    /// The text that begins with this mark.
    #[inline]
    fn text(&mut self, mark: u8) -> Read<&'de str> {
        let length = match mark {
            0xa0..0xc0 => (mark & 0x1f).into(),
            0xd9 => self.byte()?.into(),
            0xda => u16::from_be_bytes(self.bytes()?).into(),
            0xdb => u32::from_be_bytes(self.bytes()?),
            _ => return Err(Unread),
        };
        str::from_utf8(self.slice(length as usize)?).map_err(|_| Unread)
    }

    #[inline]
    fn list<V: Visitor<'de>>(&mut self, length: u32, visitor: V) -> Read<V::Value> {
        self.within(length, |parts| visitor.visit_seq(parts))
    }

    #[inline]
    fn map<V: Visitor<'de>>(&mut self, length: u32, visitor: V) -> Read<V::Value> {
        self.within(length, |parts| visitor.visit_map(parts))
    }

    #[inline]
    fn within<T>(&mut self, length: u32, visit: impl FnOnce(&mut Parts<'_, 'de>) -> Read<T>) -> Read<T> {
        self.depth = self.depth.checked_sub(1).ok_or(Unread)?;
        let mut parts = Parts { from: self, left: length };
        let value = visit(&mut parts)?;
        if parts.left > 0 {
            return Err(Unread);
        }
        self.depth += 1;
        Ok(value)
    }

    /// What begins with this mark, which has been read.
    #[inline]
    fn read<V: Visitor<'de>>(&mut self, mark: u8, visitor: V) -> Read<V::Value> {
        match mark {
            0..0x80 => visitor.visit_u8(mark),
            0x80..0x90 => self.map((mark & 0xf).into(), visitor),
            0x90..0xa0 | 0xdc | 0xdd => {
                let length = self.list_length(mark)?;
                self.list(length, visitor)
            }
            0xa0..0xc0 | 0xd9..0xdc => visitor.visit_borrowed_str(self.text(mark)?),
            0xc0 => visitor.visit_unit(),
            0xc2 | 0xc3 => visitor.visit_bool(mark == 0xc3),
            0xca => visitor.visit_f32(f32::from_be_bytes(self.bytes()?)),
            0xcb => visitor.visit_f64(f64::from_be_bytes(self.bytes()?)),
            0xcc => visitor.visit_u8(self.byte()?),
            0xcd => visitor.visit_u16(u16::from_be_bytes(self.bytes()?)),
            0xce => visitor.visit_u32(u32::from_be_bytes(self.bytes()?)),
            0xcf => visitor.visit_u64(u64::from_be_bytes(self.bytes()?)),
            0xd0 => visitor.visit_i8(i8::from_be_bytes(self.bytes()?)),
            0xd1 => visitor.visit_i16(i16::from_be_bytes(self.bytes()?)),
            0xd2 => visitor.visit_i32(i32::from_be_bytes(self.bytes()?)),
            0xd3 => visitor.visit_i64(i64::from_be_bytes(self.bytes()?)),
            0xde => {
                let length = u16::from_be_bytes(self.bytes()?).into();
                self.map(length, visitor)
            }
            0xe0.. => visitor.visit_i8(mark as i8),
            _ => Err(Unread),
        }
    }
}

macro_rules! integers {
    ($($name:ident)*) => {$(
        #[inline]
        fn $name<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
            match self.byte()? {
                mark @ 0..0x80 => visitor.visit_u8(mark),
                mark => self.read(mark, visitor),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Unpacker<'de> {
    type Error = Unread;

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let mark = self.byte()?;
        self.read(mark, visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        if self.rest.first() == Some(&0xc0) {
            self.byte()?;
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    /// A name alone, or a map of one name.
    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        match *self.rest.first().ok_or(Unread)? {
            0x81 => {
                self.byte()?;
                visitor.visit_enum(Named(self))
            }
            0xa0..0xc0 => visitor.visit_enum(Alone(self)),
            _ => Err(Unread),
        }
    }

    #[inline]
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        match self.byte()? {
            // Bytes will do: serde's own code compares names as such, and whether they are UTF-8 takes as long to say.
            mark @ 0xa0..0xc0 => visitor.visit_borrowed_bytes(self.slice((mark & 0x1f).into())?),
            _ => Err(Unread),
        }
    }

    /// `rmp-serde` has more than one form of it.
    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, _: V) -> Read<V::Value> {
        Err(Unread)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Read<V::Value> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            return Err(Unread);
        }
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_i128<V: Visitor<'de>>(self, _: V) -> Read<V::Value> {
        Err(Unread)
    }

    #[inline]
    fn deserialize_u128<V: Visitor<'de>>(self, _: V) -> Read<V::Value> {
        Err(Unread)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Read<V::Value> {
        let mark = self.byte()?;
        let length = self.list_length(mark)?;
        self.list(length, visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Read<V::Value> {
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Read<V::Value> {
        match self.byte()? {
            mark @ 0x80..0x90 => self.map((mark & 0xf).into(), visitor),
            mark @ 0x90..0xa0 => self.list((mark & 0xf).into(), visitor),
            _ => Err(Unread),
        }
    }

    integers! {
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    }

    serde::forward_to_deserialize_any! {
        bool f32 f64 char str string bytes byte_buf unit tuple_struct map ignored_any
    }
}

/// The elements of a list, or the keys and values of a map.
struct Parts<'a, 'de> {
    from: &'a mut Unpacker<'de>,
    left: u32,
}

impl<'de> SeqAccess<'de> for Parts<'_, 'de> {
    type Error = Unread;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(&mut *self.from).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left as usize)
    }
}

impl<'de> MapAccess<'de> for Parts<'_, 'de> {
    type Error = Unread;

    #[inline]
    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<Option<T::Value>> {
        self.next_element_seed(seed)
    }

    #[inline]
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Read<T::Value> {
        seed.deserialize(&mut *self.from)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left as usize)
    }
}

/// A variant whose name is a key.
struct Named<'a, 'de>(&'a mut Unpacker<'de>);

impl<'de> EnumAccess<'de> for Named<'_, 'de> {
    type Error = Unread;
    type Variant = Self;

    #[inline]
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Read<(T::Value, Self)> {
        Ok((seed.deserialize(&mut *self.0)?, self))
    }
}

impl<'de> VariantAccess<'de> for Named<'_, 'de> {
    type Error = Unread;

    #[inline]
    fn unit_variant(self) -> Read<()> {
        if self.0.byte()? == 0xc0 { Ok(()) } else { Err(Unread) }
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Read<T::Value> {
        seed.deserialize(self.0)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Read<V::Value> {
        self.0.deserialize_any(visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Read<V::Value> {
        self.0.deserialize_any(visitor)
    }
}

/// A variant that is nothing but its name.
struct Alone<'a, 'de>(&'a mut Unpacker<'de>);

impl<'de> EnumAccess<'de> for Alone<'_, 'de> {
    type Error = Unread;
    type Variant = Self;

    #[inline]
    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Read<(T::Value, Self)> {
        Ok((seed.deserialize(&mut *self.0)?, self))
    }
}

impl<'de> VariantAccess<'de> for Alone<'_, 'de> {
    type Error = Unread;

    #[inline]
    fn unit_variant(self) -> Read<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Read<T::Value> {
        Err(Unread)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Read<V::Value> {
        Err(Unread)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Read<V::Value> {
        Err(Unread)
    }
}
