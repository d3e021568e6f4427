// The elementwise half of a transformer layer, its attention, its products in bf16 where the processor has tile registers, and
// AdamW, for CPUs. Other matrix products of whole batches stay with torch (oneDNN, MKL); what torch does in many passes over
// memory is one pass here.
//
// Rows are packed: `n` real tokens behind one another, no padding between them. Activations are float or bf16; the residual
// stream, biases, norms and gradients of parameters are fp32. Every width is a multiple of 32, a head's of 16.

#include "attention.h"
#include "norms.h"
#include "optimizer.h"
#include "products.h"

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
                                       const T *v, long kv_stride, uint64_t key, float share, T *out, Softmax *kept,               \
                                       int threads) {                                                                                \
        attention(SHAPE, q, q_stride, k, v, kv_stride, Dropout(key, share), out, kept, threads);                                 \
    }                                                                                                                                \
    extern "C" void attention_backward_##SUFFIX(long sequences, long heads, long width, const int64_t *query_starts,                 \
                                                const int64_t *key_starts, long longest, float scale, const T *q, long q_stride,     \
                                                const T *k, const T *v, long kv_stride, uint64_t key, float share, const T *dout,    \
                                                const Softmax *kept, T *dq, long dq_stride, T *dk, T *dv,           \
                                                long dkv_stride, int threads) {                                                      \
        attention_backward(SHAPE, q, q_stride, k, v, kv_stride, Dropout(key, share), dout, kept, dq, dq_stride, dk, dv,     \
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

// Whether matrix products of whole batches run here.
#if HAS_TILES
extern "C" int has_tiles() { return tiles_lent; }

// out (rows, columns) = a (rows, depth) b, plus `bias` if there is one; `across`: b is (columns, depth) in memory.
extern "C" void product_bf16(long rows, long columns, long depth, const bf16 *a, const bf16 *b, int across, const bf16 *bias,
                             bf16 *out, int threads) {
    whole_product(rows, columns, depth, a, b, across, threads, [=](long row, long column, F x, F y) {
        if (bias) x += load(bias + column), y += load(bias + column + W);
        store(out + row * columns + column, x);
        store(out + row * columns + column + W, y);
    });
}

// As product, into fp32, or added to what is there.
extern "C" void product_fp32_bf16(long rows, long columns, long depth, const bf16 *a, const bf16 *b, int adds, float *out,
                                  int threads) {
    whole_product(rows, columns, depth, a, b, false, threads, [=](long row, long column, F x, F y) {
        float *to = out + row * columns + column;
        store(to, adds ? x + load(to) : x);
        store(to + W, adds ? y + load(to + W) : y);
    });
}

// As product with b across, then out = gelu(sum + bias) and, unless it is null, slope = gelu'(sum + bias).
extern "C" void product_gelu_bf16(long rows, long columns, long depth, const bf16 *a, const bf16 *b, const float *bias, bf16 *slope,
                                  bf16 *out, int threads) {
    whole_product(rows, columns, depth, a, b, true, threads, [=](long row, long column, F x, F y) {
        const long at = row * columns + column;
        F slope_x, slope_y;
        store(out + at, gelu(x + load(bias + column), slope_x));
        store(out + at + W, gelu(y + load(bias + column + W), slope_y));
        if (slope) store(slope + at, slope_x), store(slope + at + W, slope_y);
    });
}
#else
extern "C" int has_tiles() { return 0; }
#endif
