// Gradients and AdamW over flat buffers.
#pragma once

#include "vectors.h"

namespace {

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
