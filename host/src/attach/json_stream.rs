//! JSON objects out of a stream of bytes, whoever sends them: one a line, or spread over many (`pretty=on`).

/// Cuts a stream into its JSON objects.
///
/// It only finds where an object ends; whether it is valid JSON is for its reader to say. It holds no more than the
/// bytes of one object and what came with them.
#[derive(Debug, Default)]
pub struct JsonStream {
    bytes: Vec<u8>,
    /// How far `bytes` was looked at.
    seen: usize,
    depth: u32,
    text: Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Text {
    #[default]
    Outside,
    Inside,
    Escaped,
}

/// The longest object that is taken.
pub const MAX_OBJECT: usize = 1 << 20;

/// A stream that cannot be one of JSON objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// An object begins with something else than `{`; the first bytes, as text.
    NoObject(String),
    /// An object has more than [`MAX_OBJECT`] bytes.
    TooLong,
}

impl JsonStream {
    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole object, if it has arrived.
    ///
    /// # Errors
    /// [`StreamError`]; the stream is of no use afterwards.
    pub fn next_object(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        while let Some(byte) = self.bytes.get(self.seen) {
            self.seen += 1;
            match (self.text, *byte) {
                (Text::Inside, b'\\') => self.text = Text::Escaped,
                (Text::Escaped, _) => self.text = Text::Inside,
                (Text::Inside, b'"') => self.text = Text::Outside,
                (Text::Inside, _) => {}
                // Between objects.
                (Text::Outside, byte) if self.depth == 0 => match byte {
                    byte if is_space(byte) => {
                        // All of it at once: what follows is moved to the front.
                        let rest = self.bytes.get(self.seen..).unwrap_or_default();
                        self.seen += rest.iter().take_while(|byte| is_space(**byte)).count();
                        self.bytes.drain(..self.seen);
                        self.seen = 0;
                    }
                    b'{' => self.depth = 1,
                    _ => return Err(StreamError::NoObject(self.beginning())),
                },
                (Text::Outside, b'"') => self.text = Text::Inside,
                (Text::Outside, b'{' | b'[') => self.depth = self.depth.saturating_add(1),
                (Text::Outside, b'}' | b']') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let rest = self.bytes.split_off(self.seen);
                        self.seen = 0;
                        return Ok(Some(core::mem::replace(&mut self.bytes, rest)));
                    }
                }
                (Text::Outside, _) => {}
            }
            if self.seen > MAX_OBJECT {
                return Err(StreamError::TooLong);
            }
        }
        Ok(None)
    }

    fn beginning(&self) -> String {
        let line = self.bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line.get(..80).unwrap_or(line)).trim().to_owned()
    }
}

/// What JSON allows between objects: no form feed, which [`u8::is_ascii_whitespace`] takes too.
const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All objects of a stream that arrives `step` bytes at a time.
    fn objects(text: &str, step: usize) -> Vec<String> {
        let mut stream = JsonStream::default();
        let mut found = Vec::new();
        for some in text.as_bytes().chunks(step) {
            stream.push(some);
            while let Some(object) = stream.next_object().unwrap() {
                found.push(String::from_utf8(object).unwrap());
            }
        }
        found
    }

    #[test]
    fn objects_end_where_they_end() {
        let text = "{\"a\": \"}\\\"{\"}\r\n{\r\n \"b\": [ {}, \"]\" ]\r\n}{}";
        for step in [1, 3, 100] {
            assert_eq!(objects(text, step), ["{\"a\": \"}\\\"{\"}", "{\r\n \"b\": [ {}, \"]\" ]\r\n}", "{}"], "{step}");
        }
        assert_eq!(objects("{\"a\":", 2), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_object_is_said() {
        let mut stream = JsonStream::default();
        stream.push(b"QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
        let says = StreamError::NoObject("QEMU 7.2.22 monitor - type 'help' for more information".into());
        assert_eq!(stream.next_object(), Err(says));
    }

    #[test]
    fn how_a_stream_is_cut_changes_nothing_about_what_may_stand_between_objects() {
        for step in [1, 100] {
            let mut stream = JsonStream::default();
            let mut bytes = b"{}\r\x0c\r".chunks(step);
            let error = loop {
                match stream.next_object() {
                    Ok(Some(_)) => {}
                    Ok(None) => stream.push(bytes.next().expect("a form feed is no space of JSON")),
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, StreamError::NoObject(_)), "{step}: {error:?}");
        }
    }

    #[test]
    fn an_object_without_an_end_is_given_up() {
        let mut stream = JsonStream::default();
        stream.push(b"{\"a\": \"");
        for _ in 0..MAX_OBJECT / 1024 {
            stream.push(&[b'a'; 1024]);
        }
        assert_eq!(stream.next_object(), Err(StreamError::TooLong));
    }
}
