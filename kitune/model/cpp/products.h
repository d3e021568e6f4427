// Matrix products: small ones for attention, and whole ones in tile registers.
#pragma once

#include "vectors.h"
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

namespace {

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
    struct Config {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    static const Config config;
    asm volatile("ldtilecfg %0" ::"m"(config)); // GCC's own function before 14 tells of the first 8 bytes alone
}
inline void release_tiles() { _tile_release(); }

// What tiles are loaded from has been written: of this, too, GCC's functions before 14 do not tell.
inline void written() { asm volatile("" ::: "memory"); }

// Linux lends the tile registers to a process that asks once.
bool ask_for_tiles() {
    constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
const bool tiles_lent = ask_for_tiles();

inline void product_tiles(const bf16 *a, long a_stride, const bf16 *b, long columns, long depth, float *c, long c_stride) {
    written();
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

// ---- products of whole batches ----

#if HAS_TILES
constexpr long PANEL = 32;               // columns of B that a block of 32 rows is multiplied with at a time, as 2 x 2 tiles
constexpr long TILE = 16 * 32;           // bf16 numbers in a tile
constexpr long GROUP_BYTES = 1 << 20;    // of packed panels, which are to stay in the second cache

// B as tiles want it: (columns / 32, depth / 32) pairs of tiles, each of 16 x 16 pairs of neighbours in the summed dimension.
// `across`: B is (columns, depth) in memory, a weight as torch keeps it; else (depth, columns). One panel.
inline void pack_panel(const bf16 *b, bool across, long columns, long depth, long panel, bf16 *to) {
    for (long step = 0; step < depth / 32; step++)
        for (long half = 0; half < 2; half++, to += TILE) {
            const long column = panel * PANEL + half * W;
            U block[W];
            if (across) {
                for (long c = 0; c < W; c++) memcpy(&block[c], b + (column + c) * depth + step * 32, sizeof(U));
                transpose(block);
            } else {
                for (long k = 0; k < W; k++) {
                    const bf16 *pair = b + (step * 32 + 2 * k) * columns + column;
                    block[k] = interleave(pair, pair + columns);
                }
            }
            memcpy(to, block, sizeof block);
        }
}

// 32 x 32 sums in fp32, on their way to `write(row, column, first 16, second 16)`.
struct Sums {
    const float *from = nullptr;
    long row = 0, column = 0, done = PANEL;
    template <class Write> inline void pass_on(long count, Write &write) {
        for (const long end = done + count < PANEL ? done + count : PANEL; done < end; done++)
            write(row + done, column, load(from + done * PANEL), load(from + done * PANEL + W));
    }
};

// The product of a (rows, depth) and B (depth, columns), all multiples of 32; `write` gets each 32 neighbours of a row once.
// A thread has columns of its own and takes them a group at a time: the group's packed panels stay in the second cache while all
// rows pass, 32 at a time. Sums leave while the tile unit is busy with the next block: one after the other, both would take a third
// longer. Each element is summed in the same order whatever the number of threads.
template <class Write>
void whole_product(long rows, long columns, long depth, const bf16 *a, const bf16 *b, bool across, int threads, Write write) {
    const long steps = depth / 32, panels = columns / PANEL, panel_size = steps * 2 * TILE;
    const long share = (PANEL + steps - 1) / steps; // of the sums that leave in a step
    const long fitting = GROUP_BYTES / (panel_size * 2), most = fitting < 1 ? 1 : fitting;
    // Rows of tiles that lie a multiple of 2 KiB apart fall into the same few sets of the first cache.
    const bool gathers = depth * 2 % 2048 == 0;
    const long stride = gathers ? 32 : depth, next = gathers ? 2 * TILE : 32;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const long t = omp_get_thread_num(), m = omp_get_num_threads();
        const long first = panels * t / m, last = panels * (t + 1) / m;
        const long groups = (last - first + most - 1) / most;
        configure_tiles();
        float *sums = (float *)scratch(PANEL * PANEL * sizeof(float) + (PANEL * depth + most * panel_size) * sizeof(bf16));
        bf16 *packed = (bf16 *)(sums + PANEL * PANEL), *gathered = packed + most * panel_size;
        for (long group = 0; group < groups; group++) {
            const long begin = first + (last - first) * group / groups, end = first + (last - first) * (group + 1) / groups;
            for (long panel = begin; panel < end; panel++)
                pack_panel(b, across, columns, depth, panel, packed + (panel - begin) * panel_size);
            Sums leaving;
            for (long row = 0; row < rows; row += 32) {
                if (gathers)
                    for (long r = 0; r < 32; r++)
                        for (long k = 0; k < depth; k += 32) memcpy(gathered + (k + r) * 32, a + (row + r) * depth + k, 64);
                written();
                for (long panel = begin; panel < end; panel++) {
                    const bf16 *left = gathers ? gathered : a + row * depth;
                    const bf16 *right = packed + (panel - begin) * panel_size;
                    _tile_zero(0);
                    _tile_zero(1);
                    _tile_zero(2);
                    _tile_zero(3);
                    for (long step = 0; step < steps; step++, left += next, right += 2 * TILE) {
                        _tile_loadd(6, right, 64);
                        _tile_loadd(4, left, stride * 2);
                        _tile_loadd(7, right + TILE, 64);
                        _tile_loadd(5, left + W * stride, stride * 2);
                        _tile_dpbf16ps(0, 4, 6);
                        _tile_dpbf16ps(1, 4, 7);
                        _tile_dpbf16ps(2, 5, 6);
                        _tile_dpbf16ps(3, 5, 7);
                        leaving.pass_on(share, write);
                    }
                    _tile_stored(0, sums, PANEL * 4);
                    _tile_stored(1, sums + W, PANEL * 4);
                    _tile_stored(2, sums + W * PANEL, PANEL * 4);
                    _tile_stored(3, sums + W * PANEL + W, PANEL * 4);
                    leaving = {sums, row, panel * PANEL, 0};
                }
            }
            leaving.pass_on(PANEL, write);
        }
        release_tiles();
    }
}
#endif

} // namespace
