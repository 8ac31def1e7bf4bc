//! The methods that this backend can copy with, and their numbers.

use vgpu_perception::CopyMethod;

use super::Cpu;

/// A way to copy a number of pieces into one buffer. The numbers are part of the interface: a saved calibration and
/// `CopyPolicy::Fixed` name methods by them, so that a number is never given to another method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Method {
    /// One piece after the other, without preparation.
    Plain = 0,
    /// The C library's `memcpy`, a call for each piece.
    Library = 1,
    /// One `rep movsb` for each piece, the first lines of the next one prefetched.
    Moves = 2,
    /// `rep movsb` a page at a time, the next page prefetched.
    MovePages = 3,
    /// `rep movsb` half a page at a time, the next page prefetched, and the half page itself just before.
    MoveHalfPages = 4,
    /// One cursor that prefetches a page ahead, into the caches.
    One = 5,
    /// One cursor that prefetches a page ahead, past the caches.
    OneStreamed = 6,
    /// Two cursors in parts of the buffer that are far apart, into the caches.
    Two = 7,
    /// Three cursors in parts of the buffer that are far apart, into the caches.
    Three = 8,
    /// Six cursors in parts of the buffer that are far apart, 32-byte registers, into the caches.
    Six = 9,
    /// Six cursors in parts of the buffer that are far apart, 32-byte registers, past the caches.
    SixStreamed = 10,
    /// Eight cursors in parts of the buffer that are far apart, past the caches.
    EightStreamed = 11,
    /// Sixteen cursors in parts of the buffer that are far apart, past the caches.
    SixteenStreamed = 12,
    /// Eight cursors in neighbouring pages, the next eight prefetched, past the caches.
    EightAbreastStreamed = 13,
    /// Eight cursors in parts of the buffer that are far apart, a line or two at a time, nothing prefetched, into the
    /// caches.
    Eight = 14,
    /// One cursor, into the caches; of what is not copied yet only the first lines of the next piece are prefetched,
    /// which the processor's own prefetcher does not see coming.
    OneNext = 15,
}

impl Method {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [Self; 16] = [
        Self::Plain,
        Self::Library,
        Self::Moves,
        Self::MovePages,
        Self::MoveHalfPages,
        Self::One,
        Self::OneStreamed,
        Self::Two,
        Self::Three,
        Self::Six,
        Self::SixStreamed,
        Self::EightStreamed,
        Self::SixteenStreamed,
        Self::EightAbreastStreamed,
        Self::Eight,
        Self::OneNext,
    ];

    /// The method of a number.
    pub(crate) fn numbered(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// What a report calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Library => "memcpy",
            Self::Moves => "movsb",
            Self::MovePages => "movsb-page",
            Self::MoveHalfPages => "movsb-half-page",
            Self::One => "one",
            Self::OneStreamed => "one-streamed",
            Self::Two => "two",
            Self::Three => "three",
            Self::Six => "six",
            Self::SixStreamed => "six-streamed",
            Self::EightStreamed => "eight-streamed",
            Self::SixteenStreamed => "sixteen-streamed",
            Self::EightAbreastStreamed => "eight-abreast-streamed",
            Self::Eight => "eight",
            Self::OneNext => "one-next",
        }
    }

    /// Whether it stores past the caches.
    pub(crate) const fn streams(self) -> bool {
        matches!(
            self,
            Self::OneStreamed
                | Self::SixStreamed
                | Self::EightStreamed
                | Self::SixteenStreamed
                | Self::EightAbreastStreamed
        )
    }

    /// Whether this processor can do more with it than with [`Plain`](Self::Plain): elsewhere all methods are that one.
    pub(crate) const fn is_of_use(self, cpu: Cpu) -> bool {
        if !cfg!(all(target_arch = "x86_64", not(miri))) {
            return matches!(self, Self::Plain);
        }
        match self {
            Self::Moves | Self::MovePages | Self::MoveHalfPages => cpu.erms,
            _ => true,
        }
    }
}

/// The methods that are tried. Not the plain one, which is for what is too little to prepare for, and is otherwise the
/// bare moves.
pub(crate) fn candidates(cpu: Cpu) -> impl Iterator<Item = Method> {
    let tried = Method::ALL.into_iter().filter(|method| !matches!(method, Method::Plain));
    tried.filter(move |method| method.is_of_use(cpu))
}

/// The copy methods of this backend with their names: what `CopyPolicy::Fixed` can ask for on this processor.
///
/// Numbers and names stay the same from version to version; a method that is added gets a new number.
pub fn copy_methods() -> impl Iterator<Item = (CopyMethod, &'static str)> {
    let cpu = Cpu::this();
    let methods = Method::ALL.into_iter().filter(move |method| method.is_of_use(cpu));
    methods.map(|method| (CopyMethod(method.number()), method.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_number_and_a_name_of_its_own() {
        for (place, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(method.number()), place);
            assert_eq!(Method::numbered(method.number()), Some(method));
            assert_eq!(Method::ALL.iter().filter(|other| other.name() == method.name()).count(), 1, "{method:?}");
        }
        assert_eq!(Method::numbered(Method::ALL.len() as u8), None);
        assert!(copy_methods().any(|(method, name)| (method, name) == (CopyMethod(0), "plain")));
    }
}
