// All totals of one user at once: the counterpart of `recsys.features.user_totals`.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "arrays.hpp"

namespace recsys {

constexpr int64_t MAX_SUM = (int64_t{1} << 53) - 1;
constexpr int64_t BUCKETS = 4096;  // `NO_BUCKET`, which pads, is the next; nothing is ever counted there

inline int64_t saturated(int64_t sum) { return std::min(sum, MAX_SUM); }

// One total of one aggregate: its window's weights, and where its sum goes.
struct TotalPlan {
    int64_t hop_ms, tiles, largest, base, stride;
    std::vector<int64_t> weights;  // by age
};

class UserTotals {
  public:
    // totals: by aggregate, in the order of the aggregates' numbers. size: of the sums.
    UserTotals(std::vector<std::vector<TotalPlan>> totals, int64_t size) : totals_(std::move(totals)), size_(size) {
        for (const auto& of_aggregate : totals_) {
            for (const TotalPlan& plan : of_aggregate) {
                int64_t last = plan.base + plan.stride * BUCKETS;
                check(plan.base >= 0 && plan.stride >= 0 && last < size_, "a total outside the sums");
                check(static_cast<int64_t>(plan.weights.size()) == plan.tiles, "one weight per tile");
            }
        }
    }

    int64_t size() const { return size_; }

    // Adds the cells to `sums`, which has zeros; `touched` gets the places that changed, so that they can be reset.
    void add(View<int64_t> codes, View<int64_t> amounts, int64_t now_ms, std::vector<int64_t>& sums,
             std::vector<int64_t>& touched) const {
        for (size_t i = 0; i < codes.rows; i++) {
            int64_t code = codes[i], amount = amounts[i];
            auto aggregate = static_cast<size_t>(code >> 48);
            if (code < 0 || aggregate >= totals_.size()) continue;  // a cell of another feature set
            int64_t tile = code >> 16 & 0xffffffff, bucket = code & 0xffff;
            for (const TotalPlan& plan : totals_[aggregate]) {
                int64_t age = (plan.hop_ms > 0 ? now_ms / plan.hop_ms : 0) - tile;
                if (age < 0 || age >= plan.tiles || bucket > BUCKETS) continue;
                int64_t place = plan.base + plan.stride * bucket;
                int64_t weight = plan.weights[static_cast<size_t>(age)];
                auto& sum = reinterpret_cast<uint64_t&>(sums[static_cast<size_t>(place)]);
                sum += static_cast<uint64_t>(weight) * static_cast<uint64_t>(std::min(amount, plan.largest));
                touched.push_back(place);
            }
        }
    }

  private:
    std::vector<std::vector<TotalPlan>> totals_;
    int64_t size_;
};

}  // namespace recsys
