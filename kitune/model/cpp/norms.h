// What a transformer layer does between its matrix products, but attention: layer norms, embeddings, GELU.
#pragma once

#include "vectors.h"

namespace {

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

// gelu(u), and gelu'(u) in `slope`. The normal distribution after Abramowitz and Stegun 7.1.26 (absolute error 8e-8), whose
// exponential serves the slope too.
inline F gelu(F u, F &slope) {
    F size = larger(u, -u);
    F e = exponential(u * u * -0.5f);
    F k = inverse(1.0f + size * (0.3275911f * 0.70710678118654752f));
    F tail = ((((1.061405429f * k - 1.453152027f) * k + 1.421413741f) * k - 0.284496736f) * k + 0.254829592f) * k;
    tail *= e * 0.5f;
    F share = u < 0.0f ? tail : 1.0f - tail;
    slope = share + u * e * 0.39894228040143268f;
    return u * share;
}

// In `x`, (n, d) without bias: out = gelu(x + bias), and `x` becomes gelu'(x + bias), which is all that backward needs.
template <class T> void gelu(long n, long d, T *x, const float *bias, T *out, int with_slope, int threads) {
    shared_out(n, 1, threads, [&](long begin, long end, int) {
        for (long t = begin; t < end; t++) {
            for (long c = 0; c < d; c += W) {
                F slope;
                store(out + t * d + c, gelu(load(x + t * d + c) + load(bias + c), slope));
                if (with_slope) store(x + t * d + c, slope);
            }
        }
    });
}

// to (d, n_padded) = from (n, d) transposed, after `visit(place)` gave each vector of 16 numbers in it; adds the column sums of
// what it gave to `totals`.
template <class T, class Visit>
void transpose_and_sum(long n, long n_padded, long d, const T *from, T *to, float *totals, int threads, Visit visit) {
    ColumnSums sums(d, threads);
    shared_out(n_padded, W, threads, [&](long begin, long end, int thread) {
        float *part = sums.of(thread);
        for (long block = begin; block < end; block += W) {
            long rows = n - block < W ? (n - block > 0 ? n - block : 0) : W;
            for (long c = 0; c < d; c += W) {
                F total = load(part + c);
                for (long t = block; t < block + rows; t++) total += visit(t * d + c);
                store(part + c, total);
                transpose_block(from + block * d + c, d, rows, to + c * n_padded + block, n_padded);
            }
        }
    });
    sums.add_to(totals, 0, d);
}
template <class T> void transpose_and_sum(long n, long n_padded, long d, const T *from, T *to, float *totals, int threads) {
    transpose_and_sum(n, n_padded, d, from, to, totals, threads, [=](long place) { return load(from + place); });
}

// dout times the slope, in place and transposed (d, n_padded); adds its column sums to the gradient of the bias.
template <class T>
void gelu_backward(long n, long n_padded, long d, T *dout, const T *slope, T *dout_t, float *dbias, int threads) {
    transpose_and_sum(n, n_padded, d, dout, dout_t, dbias, threads, [=](long place) {
        F x = load(dout + place) * load(slope + place);
        store(dout + place, x);
        return x;
    });
}

} // namespace
