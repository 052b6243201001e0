// A layer's weights as the kernels of models read them.
#pragma once
#include <algorithm>
#include <vector>

#include "arrays.hpp"

namespace recsys {

constexpr size_t LANES = 8;  // of a vector of floats: two SSE registers, one of AVX2, or two of NEON

// (in, out) weights and a bias, padded with zeros to whole vectors of columns.
struct Linear {
    size_t depth = 0, out = 0, width = 0;
    std::vector<float> weights, bias;

    Linear() = default;
    Linear(View<float> w, View<float> b, const char* name) {
        depth = w.rows, out = w.width, width = (out + LANES - 1) / LANES * LANES;
        check(b.rows == out && out > 0 && depth > 0, name);
        weights.assign(depth * width, 0.0f);
        for (size_t k = 0; k < depth; k++) std::copy(w.row(k), w.row(k) + out, weights.data() + k * width);
        bias.assign(width, 0.0f);
        std::copy(b.data, b.data + out, bias.data());
    }
};

}  // namespace recsys
