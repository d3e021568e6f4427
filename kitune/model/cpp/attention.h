// Attention over packed sequences, forward and backward.
#pragma once

#include "products.h"

namespace {

constexpr long BLOCK = 32; // attention pads a sequence to a multiple of this

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
            const bf16 *at = from + t * stride + c;
            U both = interleave(t < n ? at : nullptr, t + 1 < n ? at + stride : nullptr);
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
    long queries() const { return query_starts[sequences]; }
    // How many heads of a sequence one thread takes: neighbours share cache lines, but each thread wants some.
    long chunk(int threads) const {
        const long share = sequences * heads / threads;
        return share < 1 ? 1 : share < heads ? share : heads;
    }
    long padded_keys() const { return padded(longest); }
    // Dropout's place of the first probability of a query token and head.
    uint32_t place(long token, long head) const { return (uint32_t)((token * heads + head) * padded_keys()); }
};

inline I lanes() { return I{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

// work(number of vectors of `columns` numbers): as a constant for short rows, which then stay in registers, and else 0.
template <class Work> inline void for_width(long columns, Work work) {
    switch (columns / BLOCK) {
    case 1: return work(std::integral_constant<long, 2>());
    case 2: return work(std::integral_constant<long, 4>());
    case 3: return work(std::integral_constant<long, 6>());
    case 4: return work(std::integral_constant<long, 8>());
    default: return work(std::integral_constant<long, 0>());
    }
}

// What backward needs of a softmax to compute it again: its largest exponent and one over its sum.
struct Softmax {
    float top, one_over;
};

// The softmax of `n` scaled scores with dropout, zeros behind them up to `columns`; V as for_width gives it.
template <long V, class T>
inline Softmax softmax_row(float *scores, long n, long columns, float scale, const Dropout &dropout, uint32_t place, T *shares) {
    F own[V ? V : 1];
    F *x = V ? own : (F *)scores;
    const long count = V ? V : columns / W;
    F tops = all(-INFINITY);
#pragma GCC unroll 8
    for (long j = 0; j < count; j++) {
        F score = load(scores + j * W);
        if (j >= count - 2) score = lanes() < (int32_t)(n - j * W) ? score : all(-INFINITY);
        x[j] = score;
        tops = larger(score, tops);
    }
    const float top = largest(tops) * scale;
    F total = {};
#pragma GCC unroll 8
    for (long j = 0; j < count; j++) {
        F e = exponential(x[j] * scale - top);
        if (j >= count - 2) e = lanes() < (int32_t)(n - j * W) ? e : F{};
        total += e;
        x[j] = e;
    }
    const float one_over = 1.0f / sum(total);
#pragma GCC unroll 4
    for (long j = 0; j < count; j += 2) {
        F p = x[j] * one_over, p2 = x[j + 1] * one_over;
        dropout.apply(place + (uint32_t)(j * W), p, p2);
        store(shares + j * W, p);
        store(shares + (j + 1) * W, p2);
    }
    return {top, one_over};
}

// Backward of softmax_row from its scores and the gradients of its shares: the shares again, and the gradients of the scores.
template <long V, class T>
inline void softmax_row_backward(float *scores, float *dshares, Softmax kept, long n, long columns, float scale, const Dropout &dropout,
                                 uint32_t place, T *shares, T *dscores) {
    F own_p[V ? V : 1], own_dp[V ? V : 1];
    F *p = V ? own_p : (F *)scores, *dp = V ? own_dp : (F *)dshares;
    const long count = V ? V : columns / W;
    F along = {}, total = {}; // of the same numbers as the scores' gradients, which so add up to zero
#pragma GCC unroll 4
    for (long j = 0; j < count; j += 2) {
        F factors[2] = {all(1.0f), all(1.0f)};
        if (dropout) dropout.factors(place + (uint32_t)(j * W), factors[0], factors[1]);
        for (long i = j; i < j + 2; i++) {
            F share = exponential(load(scores + i * W) * scale - kept.top) * kept.one_over;
            if (j >= count - 2) share = lanes() < (int32_t)(n - i * W) ? share : F{};
            F dshare = load(dshares + i * W) * factors[i - j];
            store(shares + i * W, share * factors[i - j]);
            along += share * dshare;
            total += share;
            p[i] = share;
            dp[i] = dshare;
        }
    }
    const F whole = all(sum(along) / sum(total));
#pragma GCC unroll 8
    for (long j = 0; j < count; j++) store(dscores + j * W, p[j] * (dp[j] - whole) * scale);
}

// out = softmax(scale q k^T) v with dropout on the probabilities; keeps what backward needs of each softmax, (heads, tokens), so
// that no two threads write to one cache line.
template <class T>
void attention(Shape shape, const T *q, long q_stride, const T *k, const T *v, long kv_stride, Dropout dropout, T *out, Softmax *kept,
               int threads) {
    const long d = shape.width, model = shape.heads * d;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        configure_tiles();
        const long most = shape.padded_keys();
        T *rows = (T *)scratch((d * W + 2 * d * most + W * most) * sizeof(T) + (W * most + W * d) * 4 + 64);
        T *keys = rows + d * W, *values = keys + d * most, *shares = values + d * most;
        float *scores = (float *)(shares + W * most), *result = scores + W * most;
#pragma omp for schedule(dynamic, shape.chunk(threads))
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
                for_width(columns, [&](auto vectors) {
                    for (long r = 0; r < left; r++) {
                        const Softmax softmax = softmax_row<vectors()>(scores + r * columns, n, columns, shape.scale, dropout,
                                                                       shape.place(q0 + block + r, h), shares + r * columns);
                        if (kept) kept[h * shape.queries() + q0 + block + r] = softmax;
                    }
                });
                memset((void *)(shares + left * columns), 0, (W - left) * columns * sizeof(T));
                product(shares, columns, values, d, columns, result, d);
                for (long r = 0; r < left; r++)
                    for (long c = 0; c < d; c += W) store(out + (q0 + block + r) * model + h * d + c, load(result + r * d + c));
            }
        }
        release_tiles();
    }
}

// Gradients of q, k and v from that of the output; probabilities are computed again from the scores.
template <class T>
void attention_backward(Shape shape, const T *q, long q_stride, const T *k, const T *v, long kv_stride, Dropout dropout,
                        const T *dout, const Softmax *kept, T *dq, long dq_stride, T *dk, T *dv, long dkv_stride, int threads) {
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
#pragma omp for schedule(dynamic, shape.chunk(threads))
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
                for_width(columns, [&](auto vectors) {
                    for (long r = 0; r < left; r++)
                        softmax_row_backward<vectors()>(scores + r * columns, dshares + r * columns,
                                                        kept[h * shape.queries() + q0 + block + r], n, columns, shape.scale, dropout,
                                                        shape.place(q0 + block + r, h), shares + r * columns, dscores + r * columns);
                });
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

} // namespace
