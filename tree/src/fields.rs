//! The fields of an encoded message, one after the other. A message that is decoded as a whole may need a hundred times its own size:
//! two bytes encode an empty record. Whoever receives from the other side therefore takes each field by itself.

use bytes::{Buf as _, Bytes};

use crate::error::Error;

/// Value of a field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u64),
    /// Bytes, text, a message, or packed numbers.
    Bytes(Bytes),
    /// A number of fixed size, which no message of the tree protocol has.
    Fixed,
}

/// Iterates over the numbers and values of a message's fields. After an error it ends.
#[derive(Debug)]
pub(crate) struct Fields(Bytes);

impl Fields {
    pub(crate) fn new(message: Bytes) -> Self {
        Self(message)
    }

    fn take_field(&mut self) -> Option<(u64, Value)> {
        let key = take_number(&mut self.0)?;
        let value = match key & 7 {
            0 => Value::Number(take_number(&mut self.0)?),
            1 => self.skip(8)?,
            2 => {
                let length = usize::try_from(take_number(&mut self.0)?).ok()?;
                Value::Bytes((length <= self.0.len()).then(|| self.0.split_to(length))?)
            }
            5 => self.skip(4)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }

    fn skip(&mut self, length: usize) -> Option<Value> {
        (length <= self.0.len()).then(|| self.0.advance(length))?;
        Some(Value::Fixed)
    }
}

impl Iterator for Fields {
    type Item = Result<(u64, Value), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.take_field();
        if field.is_none() {
            self.0.clear();
        }
        Some(field.ok_or(Error::Protocol("a message cannot be decoded")))
    }
}

/// Returns how many fields a message has at the end of a path of field numbers, each of them in the field before it.
pub(crate) fn count(message: Bytes, path: &[u64]) -> Result<usize, Error> {
    let Some((number, rest)) = path.split_first() else {
        return Ok(1);
    };
    let mut found = 0;
    for field in Fields::new(message) {
        match field? {
            (field, Value::Bytes(inner)) if field == *number => found += count(inner, rest)?,
            _ => {}
        }
    }
    Ok(found)
}

/// Takes a varint from the beginning of some bytes; `None` if there is none.
pub(crate) fn take_number(bytes: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use podbridge_proto::v1::{TreeAnswer, TreeProblem};
    use prost::Message as _;

    use super::*;

    #[test]
    fn fields_are_those_that_were_encoded() {
        let problem = TreeProblem {
            what: "no".into(),
            ..TreeProblem::default()
        };
        let answer = TreeAnswer {
            compared: u64::MAX,
            wanted: vec![1, 300],
            problems: vec![problem.clone()],
            ..TreeAnswer::default()
        };
        let fields: Result<Vec<_>, _> = Fields::new(answer.encode_to_vec().into()).collect();
        let expected = vec![
            (1, Value::Number(u64::MAX)),
            (2, Value::Bytes(Bytes::from_static(&[1, 0xac, 2]))),
            (4, Value::Bytes(problem.encode_to_vec().into())),
        ];
        assert_eq!(fields.unwrap(), expected);
        let count_at = |path: &[u64]| count(answer.encode_to_vec().into(), path).unwrap();
        assert_eq!(
            [count_at(&[4]), count_at(&[4, 2]), count_at(&[4, 1]), count_at(&[3])],
            [1, 1, 0, 0]
        );
    }

    #[test]
    fn broken_fields_are_refused() {
        for message in [
            &[0x80][..],
            &[0x08],
            &[0x12, 2, 0],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x0b],
            &[0x0d, 0],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            let fields: Vec<_> = Fields::new(Bytes::from_static(message)).collect();
            assert!(
                matches!(fields[..], [Err(Error::Protocol(_))]),
                "{message:?}: {fields:?}"
            );
        }
    }
}
