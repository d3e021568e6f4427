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

} // namespace
