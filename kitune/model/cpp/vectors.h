// Vectors of 16 numbers, dropout without a state, and how work is shared out: what every kernel here is made of.
//
// T is the type that activations have in memory, float or bf16; all arithmetic is fp32. Work is cut into parts by thread number
// alone, so that the same call gives the same bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#include <type_traits>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

constexpr long W = 16; // numbers in a vector

typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));

struct bf16 {
    uint16_t bits;
};

// ---- vectors ----

inline F load(const float *from) {
    F v;
    memcpy(&v, from, sizeof v);
    return v;
}
inline F load(const bf16 *from) {
    H h;
    memcpy(&h, from, sizeof h);
    return (F)(__builtin_convertvector(h, U) << 16);
}
inline void store(float *to, F v) { memcpy(to, &v, sizeof v); }
inline void store(bf16 *to, F v) {
#if defined(__AVX512BF16__)
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    memcpy(to, &h, sizeof h);
#else
    U bits = (U)v; // round to nearest, ties to even
    bits += 0x7fff + ((bits >> 16) & 1);
    H h = __builtin_convertvector(bits >> 16, H);
    memcpy(to, &h, sizeof h);
#endif
}
inline F all(float x) { return F{} + x; }
inline float sum(F v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s = 0;
    for (int i = 0; i < W; i++) s += v[i];
    return s;
#endif
}
#if defined(__AVX512F__)
inline F larger(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
inline F smaller(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
#else
inline F larger(F a, F b) { return a > b ? a : b; }
inline F smaller(F a, F b) { return a < b ? a : b; }
#endif
inline float largest(F v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#endif
    float m = v[0];
    for (int i = 1; i < W; i++) m = v[i] > m ? v[i] : m;
    return m;
}
inline F square_root(F v) {
#if defined(__AVX512F__)
    return (F)_mm512_sqrt_ps((__m512)v);
#else
    for (int i = 0; i < W; i++) v[i] = std::sqrt(v[i]);
    return v;
#endif
}

inline F inverse(F v) {
#if defined(__AVX512F__)
    F x = (F)_mm512_rcp14_ps((__m512)v); // 14 bits, doubled by a step of Newton's: a third of the time of a division
    return x * (2.0f - v * x);
#else
    return 1.0f / v;
#endif
}

// e^x to 2 ulp, after Cephes' expf: x = n ln 2 + r, a polynomial for e^r, n into the exponent.
inline F exponential(F x) {
    x = smaller(all(88.0f), larger(all(-87.0f), x)); // in this order, which lets NaN through
    const F magic = all(12582912.0f); // 1.5 * 2^23: adding it rounds to an integer in the low bits
    F shifted = x * 1.44269504088896341f + magic;
    F n = shifted - magic;
    F r = x - n * 0.693359375f + n * 2.12194440e-4f;
    F p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (F)(((I)shifted - (I)magic + 127) << 23);
}

// 16 pairs of bf16, one of each in a 32-bit lane: neighbours in the summed dimension, as dot-product instructions want them.
inline U interleave(const bf16 *even, const bf16 *odd) {
    H first = {}, second = {};
    if (even) memcpy(&first, even, sizeof first);
    if (odd) memcpy(&second, odd, sizeof second);
    return __builtin_convertvector(first, U) | (__builtin_convertvector(second, U) << 16);
}

// A 16 x 16 transposition by four perfect shuffles.
template <class V> inline void transpose(V (&rows)[W]) {
    typedef std::conditional_t<sizeof(V) == 64, uint32_t, uint16_t> Lane;
    typedef Lane Index __attribute__((vector_size(sizeof(V))));
    const Index low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const Index high = low + 8;
    for (int stage = 0; stage < 4; stage++) {
        V next[W];
        for (int i = 0; i < W / 2; i++) {
            next[2 * i] = __builtin_shuffle(rows[i], rows[i + W / 2], low);
            next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + W / 2], high);
        }
        memcpy(&rows, &next, sizeof next);
    }
}

// to[c * to_stride + r] = from[r * from_stride + c] for 16 x 16 elements, of which `rows` are real; zeros stand for the rest.
template <class T> inline void transpose_block(const T *from, long from_stride, long rows, T *to, long to_stride) {
    typedef std::conditional_t<sizeof(T) == 4, U, H> V;
    V block[W];
    for (long r = 0; r < W; r++) {
        if (r < rows)
            memcpy(&block[r], from + r * from_stride, sizeof(V));
        else
            block[r] = V{};
    }
    transpose(block);
    for (long c = 0; c < W; c++) memcpy(to + c * to_stride, &block[c], sizeof(V));
}

// ---- dropout without a state: each number follows from a key and its place ----

struct Dropout {
    uint32_t key_a, key_b, threshold; // threshold: the share dropped, in 1/65536
    float scale;
    Dropout(uint64_t key, float share) : threshold((uint32_t)std::lround(share * 65536.0f)), scale(1.0f / (1.0f - threshold / 65536.0f)) {
        key += 0x9E3779B97F4A7C15u; // SplitMix64, so that neighbouring keys become distant ones
        key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9u;
        key = (key ^ (key >> 27)) * 0x94D049BB133111EBu;
        key ^= key >> 31;
        key_a = (uint32_t)key;
        key_b = (uint32_t)(key >> 32);
    }
    // Factors of 32 neighbours from place `at` on: 0 or 1 / (1 - share). Mixing as MurmurHash3 does at its end, with a second
    // key between the rounds, so that the streams of two keys are no shifted copies of each other; each half of a number
    // decides about one place.
    inline void factors(uint32_t at, F &first, F &second) const {
        const U lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
        U x = lane * 0x9E3779B1u + (at / 2 * 0x9E3779B1u + key_a);
        x ^= x >> 15;
        x *= 0x85EBCA6Bu;
        x ^= key_b;
        x ^= x >> 13;
        x *= 0xC2B2AE35u;
        x ^= x >> 16;
        first = (x & 0xffffu) >= threshold ? all(scale) : F{};
        second = (x >> 16) >= threshold ? all(scale) : F{};
    }
    inline void apply(uint32_t at, F &first, F &second) const {
        if (!threshold) return;
        F a, b;
        factors(at, a, b);
        first *= a;
        second *= b;
    }
    explicit operator bool() const { return threshold != 0; }
};

// ---- threads ----

// work(begin, end, thread) over `count` items, cut at multiples of `step`.
template <class Work> void shared_out(long count, long step, int threads, Work work) {
    long steps = (count + step - 1) / step;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        long t = omp_get_thread_num(), m = omp_get_num_threads();
        long begin = steps * t / m * step, end = steps * (t + 1) / m * step;
        work(begin, end < count ? end : count, (int)t);
    }
}

// Sums by column that threads gather apart and that are added up in the order of the threads.
struct ColumnSums {
    long width;
    int threads;
    std::vector<float> parts;
    ColumnSums(long width, int threads) : width(width), threads(threads), parts(width * threads, 0.0f) {}
    float *of(int thread) { return parts.data() + width * thread; }
    void add_to(float *total, long from, long count) {
        for (int t = 0; t < threads; t++)
            for (long c = 0; c < count; c++) total[c] += parts[width * t + from + c];
    }
};

// Scratch memory of this thread, until it ends; it keeps its size, because freshly mapped pages cost more than the work on them.
inline char *scratch(size_t bytes) {
    struct Held {
        char *memory = nullptr;
        size_t size = 0;
        ~Held() { free(memory); }
    };
    static thread_local Held held;
    if (bytes > held.size) {
        free(held.memory);
        held.size = (bytes + 4095) / 4096 * 4096;
        held.memory = (char *)aligned_alloc(4096, held.size);
        if (!held.memory) {
            fprintf(stderr, "kitune: no memory for %zu bytes of attention; a shorter data.max_length takes less\n", held.size);
            abort();
        }
    }
    return held.memory;
}

} // namespace
