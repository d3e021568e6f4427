// The elementwise half of a transformer layer, its attention, and AdamW, for CPUs. Matrix products of whole batches stay with
// torch (oneDNN, MKL); what torch does in many passes over memory is one pass here.
//
// Rows are packed: `n` real tokens behind one another, no padding between them. T is the type that activations have in memory,
// float or bf16; all arithmetic is fp32, and so are the residual stream, biases, norms and gradients of parameters.
// Every width is a multiple of 32, a head's of 16. Work is cut into parts by thread number alone, so that the same call gives the same bits.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <omp.h>
#include <type_traits>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

namespace {

constexpr long W = 16;     // numbers in a vector
constexpr long BLOCK = 32; // attention pads a sequence to a multiple of this

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
inline F larger(F a, F b) { return a > b ? a : b; }
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
    x = x < -87.0f ? all(-87.0f) : x;
    x = x > 88.0f ? all(88.0f) : x;
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
        U x = (lane + at / 2) * 0x9E3779B1u + key_a;
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

// Scratch memory of this thread; it keeps its size, because freshly mapped pages cost more than the work on them.
inline char *scratch(size_t bytes) {
    static thread_local char *memory = nullptr;
    static thread_local size_t size = 0;
    if (bytes > size) {
        free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = (char *)aligned_alloc(4096, size);
    }
    return memory;
}

// ---- layer norm ----

// A row of `d` sums in `h` becomes its normal form times gamma plus beta; keeps the normal form and 1 / deviation if asked.
template <class T, class Write>
inline void normalize(float *h, long d, const float *gamma, const float *beta, float epsilon, T *normal, float *rstd, Write write) {
    F total = {};
    for (long c = 0; c < d; c += W) total += load(h + c);
    const F mean = all(sum(total) / d);
    F squares = {};
    for (long c = 0; c < d; c += W) {
        F x = load(h + c) - mean;
        squares += x * x;
    }
    float r = 1.0f / std::sqrt(sum(squares) / d + epsilon);
    if (rstd) *rstd = r;
    for (long c = 0; c < d; c += W) {
        F x = (load(h + c) - mean) * r;
        if (normal) store(normal + c, x);
        write(c, x * load(gamma + c) + load(beta + c));
    }
}

// out = LayerNorm(residual + dropout(dense + bias)).
template <class T>
void residual_norm(long n, long d, const T *dense, const float *bias, const float *residual, const float *gamma, const float *beta,
                   float epsilon, Dropout dropout, float *out, T *out_low, T *normal, float *rstd, int threads) {
    shared_out(n, 1, threads, [&](long begin, long end, int) {
        float *h = (float *)scratch(d * 4);
        for (long t = begin; t < end; t++) {
            for (long c = 0; c < d; c += 2 * W) {
                F x = load(dense + t * d + c) + load(bias + c), y = load(dense + t * d + c + W) + load(bias + c + W);
                dropout.apply((uint32_t)(t * d + c), x, y);
                store(h + c, x + load(residual + t * d + c));
                store(h + c + W, y + load(residual + t * d + c + W));
            }
            normalize(h, d, gamma, beta, epsilon, normal ? normal + t * d : nullptr, rstd ? rstd + t : nullptr, [&](long c, F y) {
                store(out + t * d + c, y);
                if (out_low) store(out_low + t * d + c, y);
            });
        }
    });
}

// The gradient of a row through LayerNorm: (gradient of its output) in `g` becomes that of its input.
template <class T>
inline void normalize_backward(float *g, long d, const T *normal, float rstd, const float *gamma, float *dgamma, float *dbeta) {
    F total = {}, along = {};
    for (long c = 0; c < d; c += W) {
        F y = load(g + c), x = load(normal + c);
        store(dbeta + c, load(dbeta + c) + y);
        store(dgamma + c, load(dgamma + c) + y * x);
        y *= load(gamma + c);
        store(g + c, y);
        total += y;
        along += y * x;
    }
    const F a = all(sum(total) / d), b = all(sum(along) / d);
    for (long c = 0; c < d; c += W) store(g + c, (load(g + c) - a - load(normal + c) * b) * rstd);
}

// Backward of residual_norm. The gradient of the output comes in two streams, `dy` (fp32, the residual one) and `dy_low` (of the
// matrix product; may be null). Gives that of the residual in `dy`, that of `dense` in `ddense` and transposed in `ddense_t`
// (d, n_padded), and adds to those of gamma, beta and bias.
template <class T>
void residual_norm_backward(long n, long n_padded, long d, float *dy, const T *dy_low, const T *normal, const float *rstd,
                            const float *gamma, Dropout dropout, T *ddense, T *ddense_t, float *dgamma, float *dbeta, float *dbias,
                            int threads) {
    ColumnSums sums(3 * d, threads);
    shared_out(n_padded, W, threads, [&](long begin, long end, int thread) {
        float *of_gamma = sums.of(thread), *of_beta = of_gamma + d, *of_bias = of_beta + d;
        for (long block = begin; block < end; block += W) {
            long rows = n - block < W ? (n - block > 0 ? n - block : 0) : W;
            for (long t = block; t < block + rows; t++) {
                float *g = dy + t * d;
                if (dy_low)
                    for (long c = 0; c < d; c += W) store(g + c, load(g + c) + load(dy_low + t * d + c));
                normalize_backward(g, d, normal + t * d, rstd[t], gamma, of_gamma, of_beta);
                for (long c = 0; c < d; c += 2 * W) {
                    F x = load(g + c), y = load(g + c + W);
                    dropout.apply((uint32_t)(t * d + c), x, y);
                    store(ddense + t * d + c, x);
                    store(ddense + t * d + c + W, y);
                    store(of_bias + c, load(of_bias + c) + x);
                    store(of_bias + c + W, load(of_bias + c + W) + y);
                }
            }
            for (long c = 0; c < d; c += W)
                transpose_block(ddense + block * d + c, d, rows, ddense_t + c * n_padded + block, n_padded);
        }
    });
    sums.add_to(dgamma, 0, d);
    sums.add_to(dbeta, d, d);
    sums.add_to(dbias, 2 * d, d);
}

// ---- embeddings ----

// out = dropout(LayerNorm(words[word] + positions[position] + types[type])); tables may be null.
template <class T>
void embed(long n, long d, const float *words, const int32_t *word, const float *positions, const int32_t *position,
           const float *types, const int32_t *type, const float *gamma, const float *beta, float epsilon, Dropout dropout, float *out,
           T *out_low, T *normal, float *rstd, int threads) {
    shared_out(n, 1, threads, [&](long begin, long end, int) {
        float *h = (float *)scratch(d * 4);
        for (long t = begin; t < end; t++) {
            for (long c = 0; c < d; c += W) {
                F x = load(words + (long)word[t] * d + c);
                if (types) x += load(types + (long)(type ? type[t] : 0) * d + c);
                if (positions) x += load(positions + (long)position[t] * d + c);
                store(h + c, x);
            }
            normalize(h, d, gamma, beta, epsilon, normal ? normal + t * d : nullptr, rstd ? rstd + t : nullptr,
                      [&](long c, F y) { store(h + c, y); });
            for (long c = 0; c < d; c += 2 * W) {
                F x = load(h + c), y = load(h + c + W);
                dropout.apply((uint32_t)(t * d + c), x, y);
                store(out + t * d + c, x);
                store(out + t * d + c + W, y);
                if (out_low) store(out_low + t * d + c, x), store(out_low + t * d + c + W, y);
            }
        }
    });
}

// Backward of embed up to the sum: `dy` becomes the gradient of every token's sum of embeddings.
template <class T>
void embed_backward(long n, long d, float *dy, const T *dy_low, const T *normal, const float *rstd, const float *gamma,
                    Dropout dropout, float *dgamma, float *dbeta, int threads) {
    ColumnSums sums(2 * d, threads);
    shared_out(n, 1, threads, [&](long begin, long end, int thread) {
        for (long t = begin; t < end; t++) {
            float *g = dy + t * d;
            for (long c = 0; c < d; c += 2 * W) {
                F x = load(g + c), y = load(g + c + W);
                if (dy_low) x += load(dy_low + t * d + c), y += load(dy_low + t * d + c + W);
                dropout.apply((uint32_t)(t * d + c), x, y);
                store(g + c, x);
                store(g + c + W, y);
            }
            normalize_backward(g, d, normal + t * d, rstd[t], gamma, sums.of(thread), sums.of(thread) + d);
        }
    });
    sums.add_to(dgamma, 0, d);
    sums.add_to(dbeta, d, d);
}

// table[row[t]] += gradient[t], but for the row `skipped`; each thread has columns of its own, so tokens add up in their order.
void scatter_add(long n, long d, const float *gradient, const int32_t *row, long skipped, float *table, int threads) {
    shared_out(d, W, threads, [&](long begin, long end, int) {
        for (long t = 0; t < n; t++) {
            if (row && row[t] == skipped) continue;
            float *to = table + (row ? (long)row[t] : 0) * d;
            for (long c = begin; c < end; c += W) store(to + c, load(to + c) + load(gradient + t * d + c));
        }
    });
}

// ---- GELU ----

// In `x`, (n, d) without bias: out = gelu(x + bias), and `x` becomes gelu'(x + bias), which is all that backward needs.
// The normal distribution after Abramowitz and Stegun 7.1.26 (absolute error 8e-8), whose exponential serves the slope too.
template <class T> void gelu(long n, long d, T *x, const float *bias, T *out, int with_slope, int threads) {
    shared_out(n, 1, threads, [&](long begin, long end, int) {
        for (long t = begin; t < end; t++) {
            for (long c = 0; c < d; c += W) {
                F u = load(x + t * d + c) + load(bias + c);
                F size = u < 0.0f ? -u : u;
                F e = exponential(u * u * -0.5f);
                F k = inverse(1.0f + size * (0.3275911f * 0.70710678118654752f));
                F tail = ((((1.061405429f * k - 1.453152027f) * k + 1.421413741f) * k - 0.284496736f) * k + 0.254829592f) * k;
                tail *= e * 0.5f;
                F share = u < 0.0f ? tail : 1.0f - tail;
                store(out + t * d + c, u * share);
                if (with_slope) store(x + t * d + c, share + u * e * 0.39894228040143268f);
            }
        }
    });
}

// dout times the slope, in place and transposed (d, n_padded); adds its column sums to the gradient of the bias.
template <class T>
void gelu_backward(long n, long n_padded, long d, T *dout, const T *slope, T *dout_t, float *dbias, int threads) {
    ColumnSums sums(d, threads);
    shared_out(n_padded, W, threads, [&](long begin, long end, int thread) {
        float *of_bias = sums.of(thread);
        for (long block = begin; block < end; block += W) {
            long rows = n - block < W ? (n - block > 0 ? n - block : 0) : W;
            for (long c = 0; c < d; c += W) {
                F total = load(of_bias + c);
                for (long t = block; t < block + rows; t++) {
                    F x = load(dout + t * d + c) * load(slope + t * d + c);
                    store(dout + t * d + c, x);
                    total += x;
                }
                store(of_bias + c, total);
                transpose_block(dout + block * d + c, d, rows, dout_t + c * n_padded + block, n_padded);
            }
        }
    });
    sums.add_to(dbias, 0, d);
}

// to (d, n_padded) = from (n, d) transposed; adds the column sums of `from` to `sums_of`.
template <class T> void transpose_and_sum(long n, long n_padded, long d, const T *from, T *to, float *sums_of, int threads) {
    ColumnSums sums(d, threads);
    shared_out(n_padded, W, threads, [&](long begin, long end, int thread) {
        float *part = sums.of(thread);
        for (long block = begin; block < end; block += W) {
            long rows = n - block < W ? (n - block > 0 ? n - block : 0) : W;
            for (long c = 0; c < d; c += W) {
                F total = load(part + c);
                for (long t = block; t < block + rows; t++) total += load(from + t * d + c);
                store(part + c, total);
                transpose_block(from + block * d + c, d, rows, to + c * n_padded + block, n_padded);
            }
        }
    });
    sums.add_to(sums_of, 0, d);
}

// ---- small matrix products for attention ----

// Two neighbours in the summed dimension of a bf16 matrix lie in one 32-bit lane, as dot-product instructions want them.
template <class T> constexpr long UNIT = 4 / sizeof(T);

inline F multiply_add(F total, uint32_t a, const float *b) {
    float x;
    memcpy(&x, &a, 4);
    return total + x * load(b);
}
inline F multiply_add(F total, uint32_t a, const bf16 *b) {
    U both;
    memcpy(&both, b, sizeof both);
#if defined(__AVX512BF16__)
    return (F)_mm512_dpbf16_ps((__m512)total, (__m512bh)(U{} + a), (__m512bh)both);
#else
    U pair = U{} + a;
    total += (F)(pair << 16) * (F)(both << 16);
    return total + (F)(pair & 0xffff0000u) * (F)(both & 0xffff0000u);
#endif
}

template <class T, int R, int V>
inline void product_block(const T *a, long a_stride, const T *b, long columns, long depth, float *c, long c_stride) {
    F total[R][V] = {};
    for (long k = 0; k < depth / UNIT<T>; k++)
        for (int r = 0; r < R; r++) {
            uint32_t x;
            memcpy(&x, a + r * a_stride + k * UNIT<T>, 4);
            for (int v = 0; v < V; v++) total[r][v] = multiply_add(total[r][v], x, b + (k * columns + v * W) * UNIT<T>);
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(c + r * c_stride + v * W, total[r][v]);
}

#if HAS_TILES
// Tile registers as all products here use them: 16 rows of 64 bytes.
inline void configure_tiles() {
    struct {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
}
inline void release_tiles() { _tile_release(); }

// Linux lends the tile registers to a process that asks once.
bool ask_for_tiles() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
const bool tiles_lent = ask_for_tiles();

inline void product_tiles(const bf16 *a, long a_stride, const bf16 *b, long columns, long depth, float *c, long c_stride) {
    long j = 0;
    for (; j + 2 * W <= columns; j += 2 * W) {
        _tile_zero(0);
        _tile_zero(1);
        for (long k = 0; k < depth; k += 32) {
            _tile_loadd(4, a + k, a_stride * 2);
            _tile_loadd(5, b + (k / 2 * columns + j) * 2, columns * 4);
            _tile_loadd(6, b + (k / 2 * columns + j + W) * 2, columns * 4);
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 6);
        }
        _tile_stored(0, c + j, c_stride * 4);
        _tile_stored(1, c + j + W, c_stride * 4);
    }
    for (; j < columns; j += W) {
        _tile_zero(0);
        for (long k = 0; k < depth; k += 32) {
            _tile_loadd(4, a + k, a_stride * 2);
            _tile_loadd(5, b + (k / 2 * columns + j) * 2, columns * 4);
            _tile_dpbf16ps(0, 4, 5);
        }
        _tile_stored(0, c + j, c_stride * 4);
    }
}
#else
inline void configure_tiles() {}
inline void release_tiles() {}
#endif

// c (16, columns) = a (16, depth) b, where b is packed as (depth / unit, columns, unit).
template <class T> inline void product(const T *a, long a_stride, const T *b, long columns, long depth, float *c, long c_stride) {
#if HAS_TILES
    if constexpr (std::is_same_v<T, bf16>)
        if (tiles_lent && depth % 32 == 0) return product_tiles(a, a_stride, b, columns, depth, c, c_stride);
#endif
    for (long r = 0; r < W; r += 8) {
        long j = 0;
        for (; j + 2 * W <= columns; j += 2 * W)
            product_block<T, 8, 2>(a + r * a_stride, a_stride, b + j * UNIT<T>, columns, depth, c + r * c_stride + j, c_stride);
        for (; j < columns; j += W)
            product_block<T, 8, 1>(a + r * a_stride, a_stride, b + j * UNIT<T>, columns, depth, c + r * c_stride + j, c_stride);
    }
}

inline long padded(long n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// (n, d) rows, contiguous, with zeros up to `rows`.
template <class T> inline void copy_rows(const T *from, long stride, long n, long rows, long d, T *to) {
    for (long t = 0; t < n; t++) memcpy(to + t * d, from + t * stride, d * sizeof(T));
    memset((void *)(to + n * d), 0, (rows - n) * d * sizeof(T));
}

// Packed over the width: (d / unit, rows, unit), for products that sum over the width of a head.
template <class T> inline void pack_width(const T *from, long stride, long n, long rows, long d, T *to) {
    const uint32_t *lanes = (const uint32_t *)from;
    long width = d / UNIT<T>, lane_stride = stride / UNIT<T>;
    for (long t = 0; t < rows; t += W)
        for (long c = 0; c < width; c += W) {
            long left = n - t < W ? (n - t > 0 ? n - t : 0) : W, columns = width - c < W ? width - c : W;
            U block[W];
            for (long r = 0; r < W; r++) {
                block[r] = U{};
                if (r < left) memcpy(&block[r], lanes + (t + r) * lane_stride + c, columns * 4);
            }
            transpose(block);
            for (long k = 0; k < columns; k++) memcpy((uint32_t *)to + (c + k) * rows + t, &block[k], sizeof(U));
        }
}

// Packed over the tokens: (rows / unit, d, unit), for products that sum over tokens.
inline void pack_tokens(const float *from, long stride, long n, long rows, long d, float *to) { copy_rows(from, stride, n, rows, d, to); }
inline void pack_tokens(const bf16 *from, long stride, long n, long rows, long d, bf16 *to) {
    for (long t = 0; t < rows; t += 2)
        for (long c = 0; c < d; c += W) {
            H even = {}, odd = {};
            if (t < n) memcpy(&even, from + t * stride + c, sizeof even);
            if (t + 1 < n) memcpy(&odd, from + (t + 1) * stride + c, sizeof odd);
            U both = __builtin_convertvector(even, U) | (__builtin_convertvector(odd, U) << 16);
            memcpy(to + (t * d + c * 2), &both, sizeof both);
        }
}

// ---- attention ----

// Shapes of an attention: sequence s has query tokens query_starts[s] to query_starts[s + 1], and key tokens likewise.
struct Shape {
    long sequences, heads, width; // width of a head
    const int64_t *query_starts, *key_starts;
    long longest; // keys of the longest sequence
    float scale;
    long padded_keys() const { return padded(longest); }
    // Dropout's place of the first probability of a query token and head.
    uint32_t place(long token, long head) const { return (uint32_t)((token * heads + head) * padded_keys()); }
};

// out = softmax(scale q k^T) v with dropout on the probabilities; keeps the logarithm of each softmax's sum, (tokens, heads).
template <class T>
void attention(Shape shape, const T *q, long q_stride, const T *k, const T *v, long kv_stride, Dropout dropout, T *out, float *log_sums,
               int threads) {
    const long d = shape.width, model = shape.heads * d;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        configure_tiles();
        const long most = shape.padded_keys();
        T *rows = (T *)scratch((d * W + 2 * d * most + W * most) * sizeof(T) + (W * most + W * d) * 4 + 64);
        T *keys = rows + d * W, *values = keys + d * most, *shares = values + d * most;
        float *scores = (float *)(shares + W * most), *result = scores + W * most;
#pragma omp for schedule(dynamic, 1)
        for (long item = 0; item < shape.sequences * shape.heads; item++) {
            const long s = item / shape.heads, h = item % shape.heads;
            const long q0 = shape.query_starts[s], queries = shape.query_starts[s + 1] - q0;
            const long k0 = shape.key_starts[s], n = shape.key_starts[s + 1] - k0, columns = padded(n);
            pack_width(k + k0 * kv_stride + h * d, kv_stride, n, columns, d, keys);
            pack_tokens(v + k0 * kv_stride + h * d, kv_stride, n, columns, d, values);
            for (long block = 0; block < queries; block += W) {
                const long left = queries - block < W ? queries - block : W;
                copy_rows(q + (q0 + block) * q_stride + h * d, q_stride, left, W, d, rows);
                product(rows, d, keys, columns, d, scores, columns);
                for (long r = 0; r < left; r++) {
                    float *row = scores + r * columns;
                    for (long j = n; j < columns; j++) row[j] = -INFINITY;
                    F top = all(-INFINITY);
                    for (long j = 0; j < columns; j += W) top = larger(load(row + j), top);
                    const float most_of_row = largest(top) * shape.scale;
                    F total = {};
                    for (long j = 0; j < columns; j += W) {
                        F x = load(row + j);
                        F e = exponential(x * shape.scale - most_of_row);
                        e = x == -INFINITY ? F{} : e;
                        total += e;
                        store(row + j, e);
                    }
                    const float whole = sum(total), one_over = 1.0f / whole;
                    if (log_sums) log_sums[(q0 + block + r) * shape.heads + h] = most_of_row + std::log(whole);
                    const uint32_t place = shape.place(q0 + block + r, h);
                    for (long j = 0; j < columns; j += 2 * W) {
                        F p = load(row + j) * one_over, p2 = load(row + j + W) * one_over;
                        dropout.apply(place + (uint32_t)j, p, p2);
                        store(shares + r * columns + j, p);
                        store(shares + r * columns + j + W, p2);
                    }
                }
                memset((void *)(shares + left * columns), 0, (W - left) * columns * sizeof(T));
                product(shares, columns, values, d, columns, result, d);
                for (long r = 0; r < left; r++)
                    for (long c = 0; c < d; c += W) store(out + (q0 + block + r) * model + h * d + c, load(result + r * d + c));
            }
        }
        release_tiles();
    }
}

// Gradients of q, k and v from that of the output; probabilities are computed again from log_sums.
template <class T>
void attention_backward(Shape shape, const T *q, long q_stride, const T *k, const T *v, long kv_stride, Dropout dropout,
                        const T *dout, const float *log_sums, T *dq, long dq_stride, T *dk, T *dv, long dkv_stride, int threads) {
    const long d = shape.width, model = shape.heads * d;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        configure_tiles();
        const long most = shape.padded_keys();
        // rows of queries are never more than keys
        T *q_rows = (T *)scratch((7 * d * most + 2 * W * most + 2 * most * most) * sizeof(T) + (2 * W * most + W * d) * 4 + 64);
        T *dout_rows = q_rows + d * most, *q_tokens = dout_rows + d * most, *dout_tokens = q_tokens + d * most;
        T *k_width = dout_tokens + d * most, *k_tokens = k_width + d * most, *v_width = k_tokens + d * most;
        T *dscores = v_width + d * most, *shares = dscores + W * most;
        T *dscores_t = shares + W * most, *shares_t = dscores_t + most * most;
        float *scores = (float *)(shares_t + most * most), *dshares = scores + W * most, *result = dshares + W * most;
#pragma omp for schedule(dynamic, 1)
        for (long item = 0; item < shape.sequences * shape.heads; item++) {
            const long s = item / shape.heads, h = item % shape.heads;
            const long q0 = shape.query_starts[s], queries = shape.query_starts[s + 1] - q0, q_rows_padded = padded(queries);
            const long k0 = shape.key_starts[s], n = shape.key_starts[s + 1] - k0, columns = padded(n);
            const T *q_from = q + q0 * q_stride + h * d, *k_from = k + k0 * kv_stride + h * d, *v_from = v + k0 * kv_stride + h * d;
            const T *dout_from = dout + q0 * model + h * d;
            copy_rows(q_from, q_stride, queries, q_rows_padded, d, q_rows);
            copy_rows(dout_from, model, queries, q_rows_padded, d, dout_rows);
            pack_tokens(q_from, q_stride, queries, q_rows_padded, d, q_tokens);
            pack_tokens(dout_from, model, queries, q_rows_padded, d, dout_tokens);
            pack_width(k_from, kv_stride, n, columns, d, k_width);
            pack_tokens(k_from, kv_stride, n, columns, d, k_tokens);
            pack_width(v_from, kv_stride, n, columns, d, v_width);
            for (long block = 0; block < q_rows_padded; block += W) {
                const long left = queries - block < W ? (queries - block > 0 ? queries - block : 0) : W;
                if (left) {
                    product(q_rows + block * d, d, k_width, columns, d, scores, columns);
                    product(dout_rows + block * d, d, v_width, columns, d, dshares, columns);
                }
                for (long r = 0; r < left; r++) {
                    const long token = q0 + block + r;
                    const float log_sum = log_sums[token * shape.heads + h];
                    const uint32_t place = shape.place(token, h);
                    float *row = scores + r * columns, *drow = dshares + r * columns;
                    F along = {}, total = {}; // of the same numbers as the scores' gradients, which so add up to zero
                    for (long j = 0; j < columns; j += 2 * W) {
                        F kept[2] = {all(1.0f), all(1.0f)};
                        if (dropout) dropout.factors(place + (uint32_t)j, kept[0], kept[1]);
                        for (int half = 0; half < 2; half++) {
                            const long at = j + half * W;
                            F p = exponential(load(row + at) * shape.scale - log_sum);
                            if (at + W > n) { // columns behind the end of the sequence
                                const I lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
                                p = lane < (int32_t)(n - at) ? p : F{};
                            }
                            F dp = load(drow + at) * kept[half];
                            store(shares + r * columns + at, p * kept[half]);
                            along += p * dp;
                            total += p;
                            store(row + at, p);
                            store(drow + at, dp);
                        }
                    }
                    const float whole = sum(along) / sum(total);
                    for (long j = 0; j < columns; j += W)
                        store(dscores + r * columns + j, load(row + j) * (load(drow + j) - whole) * shape.scale);
                }
                if (left < W) {
                    memset((void *)(dscores + left * columns), 0, (W - left) * columns * sizeof(T));
                    memset((void *)(shares + left * columns), 0, (W - left) * columns * sizeof(T));
                }
                for (long j = 0; j < columns; j += W) {
                    transpose_block(dscores + j, columns, W, dscores_t + j * q_rows_padded + block, q_rows_padded);
                    transpose_block(shares + j, columns, W, shares_t + j * q_rows_padded + block, q_rows_padded);
                }
                if (left) {
                    product(dscores, columns, k_tokens, d, columns, result, d);
                    for (long r = 0; r < left; r++)
                        for (long c = 0; c < d; c += W) store(dq + (q0 + block + r) * dq_stride + h * d + c, load(result + r * d + c));
                }
            }
            for (long block = 0; block < n; block += W) {
                const long left = n - block < W ? n - block : W;
                product(dscores_t + block * q_rows_padded, q_rows_padded, q_tokens, d, q_rows_padded, result, d);
                for (long r = 0; r < left; r++)
                    for (long c = 0; c < d; c += W) store(dk + (k0 + block + r) * dkv_stride + h * d + c, load(result + r * d + c));
                product(shares_t + block * q_rows_padded, q_rows_padded, dout_tokens, d, q_rows_padded, result, d);
                for (long r = 0; r < left; r++)
                    for (long c = 0; c < d; c += W) store(dv + (k0 + block + r) * dkv_stride + h * d + c, load(result + r * d + c));
            }
        }
        release_tiles();
    }
}

// ---- optimizer ----

// to += from.
template <class T> void add_gradient(long n, const T *from, float *to, int threads) {
    shared_out(n, W, threads, [&](long begin, long end, int) {
        for (long i = begin; i < end; i += W) store(to + i, load(to + i) + load(from + i));
    });
}

template <class T> double sum_of_squares(long n, const T *x, int threads) {
    std::vector<double> parts(threads, 0.0);
    shared_out(n, 1024, threads, [&](long begin, long end, int thread) {
        double total = 0;
        for (long block = begin; block < end; block += 1024) {
            F squares = {};
            for (long i = block; i < (block + 1024 < end ? block + 1024 : end); i += W) squares += load(x + i) * load(x + i);
            total += sum(squares);
        }
        parts[thread] = total;
    });
    double total = 0;
    for (double part : parts) total += part;
    return total;
}

// AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; the order of operations is torch's) in one pass: gradients
// are scaled first, and the new weights are written in fp32 and, where `low` is given, rounded.
template <class T, class G>
void adamw(long n, float *weights, const G *gradient, float *mean, float *square, T *low, float scale, float rate, float decay,
           float beta1, float beta2, float epsilon, float correction1, float correction2, int threads) {
    const float size = rate / correction1, root = 1.0f / std::sqrt(correction2);
    shared_out(n, W, threads, [&](long begin, long end, int) {
        for (long i = begin; i < end; i += W) {
            F g = load(gradient + i) * scale;
            F w = load(weights + i) * (1.0f - rate * decay);
            F m = load(mean + i);
            m += (g - m) * (1.0f - beta1);
            F v = load(square + i) * beta2 + g * g * (1.0f - beta2);
            w -= size * m / (square_root(v) * root + epsilon);
            store(weights + i, w);
            store(mean + i, m);
            store(square + i, v);
            if (low) store(low + i, w);
        }
    });
}

} // namespace

// ---- what Python calls; a name for each type ----

#define SHAPE Shape{sequences, heads, width, query_starts, key_starts, longest, scale}
#define FOR_TYPE(T, SUFFIX)                                                                                                          \
    extern "C" void residual_norm_##SUFFIX(long n, long d, const T *dense, const float *bias, const float *residual,                 \
                                           const float *gamma, const float *beta, float epsilon, uint64_t key, float share,          \
                                           float *out, T *out_low, T *normal, float *rstd, int threads) {                            \
        residual_norm(n, d, dense, bias, residual, gamma, beta, epsilon, Dropout(key, share), out, out_low, normal, rstd, threads);  \
    }                                                                                                                                \
    extern "C" void residual_norm_backward_##SUFFIX(long n, long n_padded, long d, float *dy, const T *dy_low, const T *normal,      \
                                                    const float *rstd, const float *gamma, uint64_t key, float share, T *ddense,     \
                                                    T *ddense_t, float *dgamma, float *dbeta, float *dbias, int threads) {           \
        residual_norm_backward(n, n_padded, d, dy, dy_low, normal, rstd, gamma, Dropout(key, share), ddense, ddense_t, dgamma,       \
                               dbeta, dbias, threads);                                                                               \
    }                                                                                                                                \
    extern "C" void embed_##SUFFIX(long n, long d, const float *words, const int32_t *word, const float *positions,                  \
                                   const int32_t *position, const float *types, const int32_t *type, const float *gamma,             \
                                   const float *beta, float epsilon, uint64_t key, float share, float *out, T *out_low, T *normal,   \
                                   float *rstd, int threads) {                                                                       \
        embed(n, d, words, word, positions, position, types, type, gamma, beta, epsilon, Dropout(key, share), out, out_low, normal,  \
              rstd, threads);                                                                                                        \
    }                                                                                                                                \
    extern "C" void embed_backward_##SUFFIX(long n, long d, float *dy, const T *dy_low, const T *normal, const float *rstd,          \
                                            const float *gamma, uint64_t key, float share, float *dgamma, float *dbeta,              \
                                            int threads) {                                                                           \
        embed_backward(n, d, dy, dy_low, normal, rstd, gamma, Dropout(key, share), dgamma, dbeta, threads);                          \
    }                                                                                                                                \
    extern "C" void gelu_##SUFFIX(long n, long d, T *x, const float *bias, T *out, int with_slope, int threads) {                    \
        gelu(n, d, x, bias, out, with_slope, threads);                                                                               \
    }                                                                                                                                \
    extern "C" void gelu_backward_##SUFFIX(long n, long n_padded, long d, T *dout, const T *slope, T *dout_t, float *dbias,          \
                                           int threads) {                                                                            \
        gelu_backward(n, n_padded, d, dout, slope, dout_t, dbias, threads);                                                          \
    }                                                                                                                                \
    extern "C" void transpose_and_sum_##SUFFIX(long n, long n_padded, long d, const T *from, T *to, float *sums, int threads) {      \
        transpose_and_sum(n, n_padded, d, from, to, sums, threads);                                                                  \
    }                                                                                                                                \
    extern "C" void attention_##SUFFIX(long sequences, long heads, long width, const int64_t *query_starts,                          \
                                       const int64_t *key_starts, long longest, float scale, const T *q, long q_stride, const T *k,  \
                                       const T *v, long kv_stride, uint64_t key, float share, T *out, float *log_sums,               \
                                       int threads) {                                                                                \
        attention(SHAPE, q, q_stride, k, v, kv_stride, Dropout(key, share), out, log_sums, threads);                                 \
    }                                                                                                                                \
    extern "C" void attention_backward_##SUFFIX(long sequences, long heads, long width, const int64_t *query_starts,                 \
                                                const int64_t *key_starts, long longest, float scale, const T *q, long q_stride,     \
                                                const T *k, const T *v, long kv_stride, uint64_t key, float share, const T *dout,    \
                                                const float *log_sums, T *dq, long dq_stride, T *dk, T *dv,           \
                                                long dkv_stride, int threads) {                                                      \
        attention_backward(SHAPE, q, q_stride, k, v, kv_stride, Dropout(key, share), dout, log_sums, dq, dq_stride, dk, dv,     \
                           dkv_stride, threads);                                                                                     \
    }                                                                                                                                \
    extern "C" void add_gradient_##SUFFIX(long n, const T *from, float *to, int threads) { add_gradient(n, from, to, threads); }     \
    extern "C" double sum_of_squares_##SUFFIX(long n, const T *x, int threads) { return sum_of_squares(n, x, threads); }

#define ADAMW(NAME, T, G)                                                                                                            \
    extern "C" void NAME(long n, float *weights, const G *gradient, float *mean, float *square, T *low, float scale, float rate,     \
                         float decay, float beta1, float beta2, float epsilon, float correction1, float correction2, int threads) {  \
        adamw(n, weights, gradient, mean, square, low, scale, rate, decay, beta1, beta2, epsilon, correction1, correction2,          \
              threads);                                                                                                              \
    }

ADAMW(adamw_fp32, float, float)
ADAMW(adamw_bf16, bf16, float)
ADAMW(adamw_of_low_bf16, bf16, bf16)
FOR_TYPE(float, fp32)
FOR_TYPE(bf16, bf16)

extern "C" void scatter_add_fp32(long n, long d, const float *gradient, const int32_t *row, long skipped, float *table, int threads) {
    scatter_add(n, d, gradient, row, skipped, table, threads);
}
