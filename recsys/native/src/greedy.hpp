// A list, place by place: the counterpart of `recsys.rerank.greedy` with maximal marginal relevance, or relevance alone.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <unordered_map>
#include <vector>

#include "arrays.hpp"
#include "kinds.hpp"

namespace recsys {

constexpr float NEVER = -std::numeric_limits<float>::infinity();

// `recsys.rerank.greedy.Cap`: at most `most` items of one code.
class Cap {
  public:
    Cap(View<int32_t> codes, int64_t most) : codes_(codes), most_(most), full_(codes.rows) {}

    bool is_full(size_t position) const { return full_[position]; }
    void choose(size_t position) {
        const int32_t code = codes_[position];
        if (code < 0 || ++counts_[code] < most_) return;
        for (size_t i = 0; i < codes_.rows; i++) full_[i] |= codes_[i] == code;
    }

  private:
    View<int32_t> codes_;
    int64_t most_;
    std::vector<uint8_t> full_;
    std::unordered_map<int32_t, int64_t> counts_;
};

// penalty = max(penalty, vectors · chosen), by candidate.
RECSYS_CLONES inline void penalise(const float* vectors, const float* chosen, size_t n, size_t d, float* penalty) {
    constexpr size_t LANES = 16;
    for (size_t i = 0; i < n; i++) {
        const float* vector = vectors + i * d;
        float lanes[LANES] = {}, cosine = 0;
        size_t j = 0;
        for (; j + LANES <= d; j += LANES) {
            for (size_t lane = 0; lane < LANES; lane++) lanes[lane] += vector[j + lane] * chosen[j + lane];
        }
        for (; j < d; j++) cosine += vector[j] * chosen[j];
        for (float lane : lanes) cosine += lane;
        penalty[i] = std::max(penalty[i], cosine);
    }
}

// `recsys.rerank.diversity.unit`: vectors of length 1; zeros stay zeros.
RECSYS_CLONES inline void normalise(const float* vectors, size_t n, size_t d, float* unit) {
    for (size_t i = 0; i < n; i++) {
        float squares = 0;
        for (size_t j = 0; j < d; j++) squares += vectors[i * d + j] * vectors[i * d + j];
        const float length = std::max(std::sqrt(squares), 1e-12f);
        for (size_t j = 0; j < d; j++) unit[i * d + j] = vectors[i * d + j] / length;
    }
}

// Returns (place, candidate) in the order of `places`. relevance: N. vectors: (N, d), or (N, 0) for relevance alone.
// pins: place → candidate.
inline std::vector<std::pair<int64_t, size_t>> greedy(View<float> relevance, View<float> vectors, double diversity,
                                                      std::vector<Cap> caps, const std::vector<int64_t>& places,
                                                      const std::unordered_map<int64_t, size_t>& pins) {
    const size_t n = relevance.rows, d = vectors.width;
    check(vectors.rows == n, "a vector for each candidate");
    const auto weight = static_cast<float>(diversity);
    std::vector<float> gain(n), penalty(n, d ? -weight : 0.0f), chosen_vector(d), unit(n * d);
    normalise(vectors.data, n, d, unit.data());
    for (size_t i = 0; i < n; i++) gain[i] = d ? static_cast<float>(1 - diversity) * relevance[i] : relevance[i];
    std::vector<uint8_t> taken(n);
    size_t left = n;
    for (const auto& [place, position] : pins) {
        check(position < n, "a pin outside the candidates");
        left -= !taken[position];
        taken[position] = 1;
    }
    const auto best = [&](bool capped) {
        size_t found = n;
        float most = NEVER;
        for (size_t i = 0; i < n; i++) {
            const float value = gain[i] - penalty[i];
            if (taken[i] || !(value > most)) continue;
            if (capped && std::any_of(caps.begin(), caps.end(), [&](const Cap& cap) { return cap.is_full(i); })) continue;
            found = i;
            most = value;
        }
        return found;
    };
    std::vector<std::pair<int64_t, size_t>> list;
    for (int64_t place : places) {
        const auto pin = pins.find(place);
        size_t position;
        if (pin != pins.end()) {
            position = pin->second;
        } else if (left) {
            position = best(true);
            if (position == n) position = best(false);  // a full list that exceeds a cap is better than a short one
            check(position < n, "scores must be finite");
            taken[position] = 1;
            left--;
        } else {
            continue;
        }
        list.emplace_back(place, position);
        for (size_t j = 0; j < d; j++) chosen_vector[j] = weight * unit[position * d + j];
        if (d) penalise(unit.data(), chosen_vector.data(), n, d, penalty.data());
        for (Cap& cap : caps) cap.choose(position);
    }
    return list;
}

}  // namespace recsys
