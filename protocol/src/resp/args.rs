//! The arguments of one command, as ranges of the buffer it arrived in.

use std::fmt;

/// Where one argument lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Offset of the first byte in the source.
    pub(super) at: usize,
    /// Bytes, as declared.
    pub(super) len: u64,
    /// Whether the payload went elsewhere and is not in the source.
    pub(super) taken: bool,
}

/// One argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// It lies in the buffer.
    Bytes(&'a [u8]),
    /// Its payload was received elsewhere.
    Taken {
        /// Bytes of payload.
        len: u64,
    },
}

impl<'a> Arg<'a> {
    /// Bytes of the argument, wherever they are.
    pub fn len(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Taken { len } => len,
        }
    }

    /// Whether the argument has no bytes.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The bytes, unless they were received elsewhere.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Taken { .. } => None,
        }
    }
}

/// The arguments of one command, its name first. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    source: &'a [u8],
    slots: &'a [Slot],
}

impl<'a> Args<'a> {
    pub(super) fn new(source: &'a [u8], slots: &'a [Slot]) -> Self {
        Self { source, slots }
    }

    /// Arguments, the command's name included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none (an empty line).
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Argument `index`, the name being 0.
    #[inline]
    pub fn get(&self, index: usize) -> Option<Arg<'a>> {
        self.slots.get(index).map(|slot| self.arg(slot))
    }

    /// The bytes of argument `index`; `None` where there is none or its payload was received elsewhere.
    #[inline]
    pub fn bytes(&self, index: usize) -> Option<&'a [u8]> {
        self.get(index)?.bytes()
    }

    /// The arguments without the first `count`, as for a subcommand.
    #[must_use]
    pub fn skip(&self, count: usize) -> Self {
        Self { source: self.source, slots: self.slots.get(count..).unwrap_or(&[]) }
    }

    /// All arguments in order.
    pub fn iter(&self) -> ArgsIter<'a> {
        ArgsIter { args: *self, next: 0 }
    }

    #[inline]
    fn arg(&self, slot: &Slot) -> Arg<'a> {
        if slot.taken {
            return Arg::Taken { len: slot.len };
        }
        // A buffered argument is at most `arg_len_max` long, a usize.
        let len = usize::try_from(slot.len).unwrap_or(usize::MAX);
        Arg::Bytes(&self.source[slot.at..slot.at + len])
    }
}

impl fmt::Debug for Args<'_> {
    /// Lengths only: arguments may be credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter().map(|slot| slot.len)).finish()
    }
}

impl<'a> IntoIterator for Args<'a> {
    type Item = Arg<'a>;
    type IntoIter = ArgsIter<'a>;
    fn into_iter(self) -> ArgsIter<'a> {
        self.iter()
    }
}

/// Iterates over [`Args`].
#[derive(Clone, Debug)]
pub struct ArgsIter<'a> {
    args: Args<'a>,
    next: usize,
}

impl<'a> Iterator for ArgsIter<'a> {
    type Item = Arg<'a>;

    fn next(&mut self) -> Option<Arg<'a>> {
        let arg = self.args.get(self.next)?;
        self.next += 1;
        Some(arg)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.args.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for ArgsIter<'_> {}

/// Arguments that own their bytes: a command made here rather than received.
#[derive(Clone, Default)]
pub struct ArgBuf {
    source: Vec<u8>,
    slots: Vec<Slot>,
}

impl ArgBuf {
    /// Copies `words`.
    pub fn new<W: AsRef<[u8]>>(words: impl IntoIterator<Item = W>) -> Self {
        let mut all = Self::default();
        for word in words {
            all.push(word.as_ref());
        }
        all
    }

    /// Appends one argument.
    pub fn push(&mut self, word: &[u8]) {
        self.slots.push(Slot { at: self.source.len(), len: word.len() as u64, taken: false });
        self.source.extend_from_slice(word);
    }

    /// Appends one argument whose payload of `len` bytes is elsewhere.
    pub fn push_taken(&mut self, len: u64) {
        self.slots.push(Slot { at: self.source.len(), len, taken: true });
    }

    /// The arguments.
    pub fn args(&self) -> Args<'_> {
        Args::new(&self.source, &self.slots)
    }
}

impl fmt::Debug for ArgBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.args().fmt(f)
    }
}
