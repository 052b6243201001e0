// How columns of integers become one column of floats: the counterpart of `recsys.features.kinds`.
//
// Integers come as doubles, which have all of them up to 2^53. Only +, -, · and / in the order of the Python code, so
// the bits are the same.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

// Also compiled for AVX2; the loader chooses. (Sanitizers run before the loader can.)
#if defined(__x86_64__) && defined(__linux__) && !defined(__SANITIZE_ADDRESS__)
#define RECSYS_CLONES __attribute__((target_clones("default", "arch=haswell")))
#else
#define RECSYS_CLONES
#endif

namespace recsys {

enum class Kind : int {
    COUNT, RATIO, MEAN, AFFINITY, LIFT, VISIT_COUNT, VISIT_RECENCY, RECENCY, ITEM_AGE, NUMBER, HOUR, WEEKDAY
};

// What a column is made of. x: its operands, n doubles each. p: the numbers of the definition. Not all kinds use all.
struct Inputs {
    const double* x[4];
    const double* p;
    const int64_t* visits;  // n masks, bit i: the i-th of the latest visits matches
    const double* times;    // of the visits, from 1; [0]: 0
    double whole;           // how many visits there are; 1 for a count
    const double* parts;    // n counts of the candidates' categories, or ones
    double now_ms;
};

inline double bits(int64_t mask) { return __builtin_popcountll(static_cast<uint64_t>(mask)); }

// The number of the highest bit, from 1; 0: none.
inline size_t highest(int64_t mask) {
    return mask ? 64 - static_cast<size_t>(__builtin_clzll(static_cast<uint64_t>(mask))) : 0;
}

inline double since(double then_ms, double now_ms, double unit, double missing) {
    return then_ms > 0 ? std::max((now_ms - then_ms) / unit, 0.0) : missing;
}

RECSYS_CLONES inline void evaluate(Kind kind, const Inputs& in, size_t n, float* out) {
    const double *a = in.x[0], *b = in.x[1], *p = in.p;
    const double now_ms = in.now_ms;
    switch (kind) {
        case Kind::COUNT:
            for (size_t i = 0; i < n; i++) out[i] = static_cast<float>(a[i] / p[0]);
            return;
        case Kind::RATIO:
            for (size_t i = 0; i < n; i++) out[i] = static_cast<float>((a[i] / p[0] + p[2]) / (b[i] / p[1] + p[3]));
            return;
        case Kind::MEAN:
            for (size_t i = 0; i < n; i++) {
                out[i] = static_cast<float>(b[i] > 0 ? a[i] / (std::max(b[i], 1.0) * p[0]) : p[1]);
            }
            return;
        case Kind::AFFINITY:
            for (size_t i = 0; i < n; i++) {
                const double base = b[i] * in.parts[i];
                out[i] = static_cast<float>(base > 0 ? a[i] / std::max(base, 1.0) : p[0]);
            }
            return;
        case Kind::LIFT: {
            const double *part = in.x[2], *whole = in.x[3];
            for (size_t i = 0; i < n; i++) {
                const double mean = (part[i] / p[0] + p[2]) / (whole[i] / p[1] + p[3]);
                out[i] = static_cast<float>((a[i] / p[0] + p[4] * mean) / (b[i] / p[1] + p[4]) - mean);
            }
            return;
        }
        case Kind::VISIT_COUNT:
            for (size_t i = 0; i < n; i++) out[i] = static_cast<float>(bits(in.visits[i]) / in.whole);
            return;
        case Kind::VISIT_RECENCY:
            for (size_t i = 0; i < n; i++) {
                out[i] = static_cast<float>(since(in.times[highest(in.visits[i])], now_ms, 1000.0, p[0]));
            }
            return;
        case Kind::RECENCY:
            for (size_t i = 0; i < n; i++) out[i] = static_cast<float>(since(a[i], now_ms, 1000.0, p[0]));
            return;
        case Kind::ITEM_AGE:
            for (size_t i = 0; i < n; i++) out[i] = static_cast<float>(since(a[i], now_ms, 86'400'000.0, p[0]));
            return;
        case Kind::NUMBER: std::fill_n(out, n, static_cast<float>(a[0])); return;
        case Kind::HOUR: std::fill_n(out, n, static_cast<float>(int64_t(now_ms) / 3'600'000 % 24)); return;
        case Kind::WEEKDAY: std::fill_n(out, n, static_cast<float>((int64_t(now_ms) / 86'400'000 + 3) % 7)); return;
    }
}

}  // namespace recsys
