//! The copy kernel of x86-64: moves whole blocks through registers and folds their CRC-32 from the same registers.
//!
//! Folding by carry-less multiplication (Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
//! Instruction", Intel 2009), in the reflected form. What is left is 16 bytes whose CRC, begun from an empty register,
//! is that of everything; the caller takes it by ordinary means, so no Barrett reduction is needed here.
//!
//! Invariants:
//! - Each source byte is loaded once; what is stored and what is folded are that one load.
//! - Streaming stores are fenced before the kernel returns.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _MM_HINT_NTA, _mm_clmulepi64_si128, _mm_cvtsi32_si128, _mm_loadu_si128, _mm_prefetch,
    _mm_set_epi64x, _mm_sfence, _mm_storeu_si128, _mm_stream_si128, _mm_xor_si128, _mm256_broadcastsi128_si256,
    _mm256_clmulepi64_epi128, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_stream_si256, _mm256_xor_si256,
    _mm256_zextsi128_si256, _mm512_broadcast_i32x4, _mm512_clmulepi64_epi128, _mm512_loadu_si512, _mm512_storeu_si512,
    _mm512_stream_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512, _mm512_zextsi128_si512,
};

/// Bytes a kernel moves at a time: lengths given to it are multiples of this.
pub(super) const BLOCK: usize = 256;

/// What streaming stores of every width want their target aligned to: a cache line.
pub(super) const ALIGN: usize = 64;

/// How far ahead of the loads the source is fetched. Carries over page borders, where the hardware stops fetching.
const FETCH_AHEAD: usize = 512;

/// Where the bytes go, beside the checksum.
pub(super) mod store {
    /// Nowhere.
    pub(in super::super) const NONE: u8 = 0;
    /// By way of the cache.
    pub(in super::super) const PLAIN: u8 = 1;
    /// Past the cache. The target must be aligned to [`ALIGN`](super::ALIGN).
    pub(in super::super) const STREAMING: u8 = 2;
}

/// Kernels, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Avx512,
    Avx2,
    Sse,
}

impl Kernel {
    pub(super) const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Sse];

    /// Whether this machine has the instructions. The answer is cached by the standard library.
    pub(super) fn is_here(self) -> bool {
        match self {
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("vpclmulqdq") && Self::Sse.is_here()
            }
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("vpclmulqdq") && Self::Sse.is_here()
            }
            Self::Sse => is_x86_feature_detected!("pclmulqdq") && is_x86_feature_detected!("sse4.1"),
        }
    }

    /// The best this machine has.
    pub(super) fn best() -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.is_here())
    }

    /// Moves `len` bytes as `STORE` says and folds them behind `register`, the CRC's register so far (not inverted).
    ///
    /// # Safety
    /// This kernel [`is_here`](Self::is_here). `len` is a multiple of [`BLOCK`], not 0. `from` is valid for reading
    /// `len` bytes; unless `STORE` is `NONE`, `to` is valid for writing as many and does not overlap `from`; if `STORE`
    /// is `STREAMING`, `to` is aligned to [`ALIGN`].
    pub(super) unsafe fn fold<const STORE: u8>(
        self,
        from: *const u8,
        to: *mut u8,
        len: usize,
        register: u32,
    ) -> [u8; 16] {
        match self {
            // SAFETY: the instructions are here and the pointers are valid, as the caller promises.
            Self::Avx512 => unsafe { fold_512::<STORE>(from, to, len, register) },
            // SAFETY: as above.
            Self::Avx2 => unsafe { fold_256::<STORE>(from, to, len, register) },
            // SAFETY: as above.
            Self::Sse => unsafe { fold_128::<STORE>(from, to, len, register) },
        }
    }
}

/// `x^power` modulo the polynomial, reflected, as the multiplication wants it: one bit up.
const fn power_of_x(power: u32) -> i64 {
    let mut value: u32 = 1 << 31;
    let mut left = power;
    while left > 0 {
        value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
        left -= 1;
    }
    (value as i64) << 1
}

/// The two multipliers that carry 16 bytes over a distance of so many bytes: for the low and for the high half.
const fn multipliers(distance: usize) -> (i64, i64) {
    assert!(distance >= 16 && distance <= 4096, "a distance of some vectors");
    #[expect(clippy::cast_possible_truncation, reason = "at most 4096, just asserted")]
    let bits = distance as u32 * 8;
    (power_of_x(bits + 32), power_of_x(bits - 32))
}

const _: () = assert!(power_of_x(4 * 128 + 32) == 0x1_5444_2bd4, "the paper's constants");
const _: () = assert!(power_of_x(128 - 32) == 0x0_ccaa_009e, "the paper's constants");

/// Folds `lanes`, 16 bytes each, into the last of them.
#[target_feature(enable = "pclmulqdq,sse4.1")]
fn fold_lanes<const LANES: usize>(lanes: [[u8; 16]; LANES]) -> [u8; 16] {
    const K: (i64, i64) = multipliers(16);
    let k = _mm_set_epi64x(K.1, K.0);
    // SAFETY: a lane has 16 readable bytes; any alignment will do.
    let mut folded = unsafe { _mm_loadu_si128(lanes[0].as_ptr().cast()) };
    for lane in &lanes[1..] {
        // SAFETY: as above.
        let data = unsafe { _mm_loadu_si128(lane.as_ptr().cast()) };
        folded = step_128(folded, k, data);
    }
    let mut out = [0; 16];
    // SAFETY: `out` has 16 writable bytes; any alignment will do.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), folded) };
    out
}

#[target_feature(enable = "pclmulqdq,sse4.1")]
#[inline]
fn step_128(folded: __m128i, k: __m128i, data: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128::<0x00>(folded, k);
    let high = _mm_clmulepi64_si128::<0x11>(folded, k);
    _mm_xor_si128(_mm_xor_si128(low, high), data)
}

#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn step_256(folded: __m256i, k: __m256i, data: __m256i) -> __m256i {
    let low = _mm256_clmulepi64_epi128::<0x00>(folded, k);
    let high = _mm256_clmulepi64_epi128::<0x11>(folded, k);
    _mm256_xor_si256(_mm256_xor_si256(low, high), data)
}

#[target_feature(enable = "avx512f,vpclmulqdq")]
#[inline]
fn step_512(folded: __m512i, k: __m512i, data: __m512i) -> __m512i {
    const XOR3: i32 = 0x96;
    let low = _mm512_clmulepi64_epi128::<0x00>(folded, k);
    let high = _mm512_clmulepi64_epi128::<0x11>(folded, k);
    _mm512_ternarylogic_epi64::<XOR3>(low, high, data)
}

/// One kernel: the same loop for each width of vector.
macro_rules! kernel {
    (
        $(#[$doc:meta])*
        $name:ident, $features:literal, $vector:ty, load $load:ident, store $store:ident, stream $stream:ident,
        step $step:ident, broadcast |$k:ident| $broadcast:expr, first |$register:ident, $data:ident| $first:expr
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`Kernel::fold`].
        #[target_feature(enable = $features)]
        unsafe fn $name<const STORE: u8>(from: *const u8, to: *mut u8, len: usize, register: u32) -> [u8; 16] {
            const WIDTH: usize = size_of::<$vector>();
            const VECTORS: usize = BLOCK / WIDTH;
            const FAR: (i64, i64) = multipliers(BLOCK);
            const NEAR: (i64, i64) = multipliers(WIDTH);
            let put = |at: usize, data: $vector| match STORE {
                // SAFETY: `at + WIDTH` is at most `len`, for which the caller promises `to` is valid.
                store::PLAIN => unsafe { $store(to.wrapping_add(at).cast(), data) },
                // SAFETY: the same, and `to` is aligned to `ALIGN`, `at` a multiple of `WIDTH`.
                store::STREAMING => unsafe { $stream(to.wrapping_add(at).cast(), data) },
                _ => {}
            };
            // SAFETY: `at + WIDTH` is at most `len`, for which the caller promises `from` is valid; unaligned will do.
            let get = |at: usize| -> $vector { unsafe { $load(from.wrapping_add(at).cast()) } };
            let constant = |(low, high): (i64, i64)| -> $vector {
                let $k = _mm_set_epi64x(high, low);
                $broadcast
            };

            let far = constant(FAR);
            let mut folded: [$vector; VECTORS] = std::array::from_fn(|v| get(v * WIDTH));
            for v in 0..VECTORS {
                put(v * WIDTH, folded[v]);
            }
            let $register = _mm_cvtsi32_si128(register.cast_signed());
            let $data = folded[0];
            folded[0] = $first;
            let mut at = BLOCK;
            while at < len {
                if at + FETCH_AHEAD < len {
                    for line in 0..BLOCK / ALIGN {
                        _mm_prefetch::<_MM_HINT_NTA>(from.wrapping_add(at + FETCH_AHEAD + line * ALIGN).cast());
                    }
                }
                for v in 0..VECTORS {
                    let data = get(at + v * WIDTH);
                    put(at + v * WIDTH, data);
                    folded[v] = $step(folded[v], far, data);
                }
                at += BLOCK;
            }
            if STORE == store::STREAMING {
                _mm_sfence();
            }
            let near = constant(NEAR);
            let mut last = folded[0];
            for v in 1..VECTORS {
                last = $step(last, near, folded[v]);
            }
            let mut lanes = [[0u8; 16]; WIDTH / 16];
            // SAFETY: the lanes have `WIDTH` writable bytes in all; unaligned will do.
            unsafe { $store(lanes.as_mut_ptr().cast(), last) };
            fold_lanes(lanes)
        }
    };
}

kernel! {
    /// Four vectors of 64 bytes.
    fold_512, "avx512f,vpclmulqdq,pclmulqdq,sse4.1", __m512i,
    load _mm512_loadu_si512, store _mm512_storeu_si512, stream _mm512_stream_si512, step step_512,
    broadcast |k| _mm512_broadcast_i32x4(k), first |register, data| _mm512_xor_si512(data, _mm512_zextsi128_si512(register))
}

kernel! {
    /// Eight vectors of 32 bytes.
    fold_256, "avx2,vpclmulqdq,pclmulqdq,sse4.1", __m256i,
    load _mm256_loadu_si256, store _mm256_storeu_si256, stream _mm256_stream_si256, step step_256,
    broadcast |k| _mm256_broadcastsi128_si256(k), first |register, data| _mm256_xor_si256(data, _mm256_zextsi128_si256(register))
}

kernel! {
    /// Sixteen vectors of 16 bytes.
    fold_128, "pclmulqdq,sse4.1", __m128i,
    load _mm_loadu_si128, store _mm_storeu_si128, stream _mm_stream_si128, step step_128,
    broadcast |k| k, first |register, data| _mm_xor_si128(data, register)
}
