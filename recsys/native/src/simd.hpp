// Eight floats at once, as vectors of the compiler: two SSE registers, one of AVX2, or two of NEON.
//
// No guard: included once per instruction set, each time within a namespace and a region of `#pragma GCC target`. Clones of a
// function do not do: GCC takes vectors apart before it makes them.

namespace simd {

using Floats = float __attribute__((vector_size(4 * LANES)));
using Ints = int32_t __attribute__((vector_size(4 * LANES)));
// Anywhere in memory. memcpy into a vector makes GCC's AVX2 code eight times slower.
using Unaligned = float __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

// Vectors are returned through references: by value they would have another calling convention with AVX than without.
inline __attribute__((always_inline)) void load(const float* from, Floats& to) { to = *reinterpret_cast<const Unaligned*>(from); }
inline __attribute__((always_inline)) void store(const Floats& from, float* to) { *reinterpret_cast<Unaligned*>(to) = from; }
inline __attribute__((always_inline)) size_t padded(size_t n) { return (n + LANES - 1) / LANES * LANES; }

// log(y) for y ≥ 1; infinity stays. Cephes' logf: a polynomial on [√½, √2), relative error below 1e-7.
inline __attribute__((always_inline)) void log_of(Floats& y) {
    Ints bits = (Ints)y;  // the same bits
    Ints exponent = ((bits >> 23) & 0xff) - 126;
    bits = (bits & 0x007fffff) | 0x3f000000;
    Floats m = (Floats)bits;
    const Ints low = m < 0.707106781186547524f;
    exponent += low;  // true is -1
    m = m - 1.0f + (Floats)((Ints)m & low);
    Floats p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    const Floats square = m * m, e = __builtin_convertvector(exponent, Floats);
    const Floats found = m + (p * m * square + e * -2.12194440e-4f - 0.5f * square) + e * 0.693359375f;
    y = y > 3.4028234e38f ? y : found;
}

// exp(x), x clamped to ± 87. Cephes' expf, relative error below 2e-7.
inline __attribute__((always_inline)) void exp_of(Floats& x) {
    const Floats most = Floats{} + 87.0f;
    x = x < -most ? -most : x;
    x = x > most ? most : x;
    const Floats t = x * 1.44269504088896341f;
    const Floats half = Floats{} + 0.5f;
    const Ints n = __builtin_convertvector(t + (t < 0.0f ? -half : half), Ints);
    const Floats whole = __builtin_convertvector(n, Floats);
    x = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats p = x * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    p = p * x * x + x + 1.0f;
    x = p * (Floats)((n + 127) << 23);
}

// y (R, width) = x (R, depth) · w (depth, width) + bias (width). width: a multiple of LANES.
template <size_t R>
inline __attribute__((always_inline)) void product_rows(const float* x, size_t x_stride, size_t depth, const float* w, size_t width,
                                const float* bias, float* y, size_t y_stride) {
    size_t j = 0;
    for (; j + 2 * LANES <= width; j += 2 * LANES) {
        Floats left[R], right[R], w_left, w_right;
        load(bias + j, w_left);
        load(bias + j + LANES, w_right);
        for (size_t r = 0; r < R; r++) left[r] = w_left, right[r] = w_right;
        for (size_t k = 0; k < depth; k++) {
            load(w + k * width + j, w_left);
            load(w + k * width + j + LANES, w_right);
            for (size_t r = 0; r < R; r++) {
                left[r] += w_left * x[r * x_stride + k];
                right[r] += w_right * x[r * x_stride + k];
            }
        }
        for (size_t r = 0; r < R; r++) {
            store(left[r], y + r * y_stride + j);
            store(right[r], y + r * y_stride + j + LANES);
        }
    }
    for (; j < width; j += LANES) {
        Floats sums[R], weights;
        load(bias + j, weights);
        for (size_t r = 0; r < R; r++) sums[r] = weights;
        for (size_t k = 0; k < depth; k++) {
            load(w + k * width + j, weights);
            for (size_t r = 0; r < R; r++) sums[r] += weights * x[r * x_stride + k];
        }
        for (size_t r = 0; r < R; r++) store(sums[r], y + r * y_stride + j);
    }
}

// The same for n rows: six at a time fill AVX2's sixteen registers.
inline __attribute__((always_inline)) void product(const float* x, size_t n, size_t x_stride, size_t depth, const float* w, size_t width,
                           const float* bias, float* y, size_t y_stride) {
    constexpr size_t R = 6;
    size_t i = 0;
    for (; i + R <= n; i += R) {
        product_rows<R>(x + i * x_stride, x_stride, depth, w, width, bias, y + i * y_stride, y_stride);
    }
    for (; i < n; i++) {
        product_rows<1>(x + i * x_stride, x_stride, depth, w, width, bias, y + i * y_stride, y_stride);
    }
}

}  // namespace simd
