// The bundle's models as compiled code: student ranker (recsys/models/ranker.py) and user tower (recsys/models/two_tower.py).
//
// They are compared with golden outputs, not bit by bit with Python, so products may be fused multiply-adds.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ranker_weights.hpp"
#include "tower_weights.hpp"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define RECSYS_AVX2 1
#endif

namespace recsys {

#ifdef RECSYS_AVX2
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#pragma GCC optimize("fp-contract=fast")
namespace avx2 {
#include "simd.hpp"
#include "ranker_pass.hpp"
#include "tower_pass.hpp"
}  // namespace avx2
#pragma GCC pop_options
#endif

namespace portable {
#include "simd.hpp"
#include "ranker_pass.hpp"
#include "tower_pass.hpp"
}  // namespace portable

inline bool has_avx2() {
#ifdef RECSYS_AVX2
    static const bool found = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return found;
#else
    return false;
#endif
}

// Item rows in 8 bits, hashed or not, fields, dot attention with one head, one cross layer, one expert, linear towers.
// `recsys.ranking.compiled` hands the weights over.
class RankerKernel {
  public:
    explicit RankerKernel(RankerWeights weights) : weights_(std::move(weights)) { weights_.validate(); }

    size_t features() const { return weights_.features(); }

    // heads: (HEADS, n). Nothing here is written to, so threads may run it together.
    void run(const UserInput& user, const CandidateInput& given, float* heads) const {
        check(user.types.rows == user.history.rows && user.gaps.rows == user.history.rows, "a type and a gap an event");
        check(given.features.width == features() && given.features.rows == given.items.rows &&
                  given.positions.rows == given.items.rows,
              "features and a position of each candidate");
#ifdef RECSYS_AVX2
        if (has_avx2()) return avx2::RankerPass(weights_).score(user, given, heads);
#endif
        portable::RankerPass(weights_).score(user, given, heads);
    }

  private:
    RankerWeights weights_;
};

// Any number of blocks, with or without the users' attributes. `recsys.recall.compiled_tower` hands the weights over.
class TowerKernel {
  public:
    explicit TowerKernel(TowerWeights weights) : weights_(std::move(weights)) { weights_.validate(); }

    size_t width() const { return weights_.width(); }
    bool takes_profile() const { return weights_.takes_profile(); }

    // into: (width).
    void run(const TowerInput& given, float* into) const {
#ifdef RECSYS_AVX2
        if (has_avx2()) return avx2::TowerPass(weights_).vector(given, into);
#endif
        portable::TowerPass(weights_).vector(given, into);
    }

  private:
    TowerWeights weights_;
};

}  // namespace recsys
