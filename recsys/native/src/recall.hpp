// Recall channels, their merger and the filters of every list: the counterpart of `recsys.recall`'s sources,
// `recsys.recall.merge` and `recsys.pipeline.filters`.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "arrays.hpp"

namespace recsys {

using Rows = std::vector<int32_t>;

// Positions of `keys`, the greatest first; ties keep their order.
template <typename T>
std::vector<size_t> descending(const std::vector<T>& keys) {
    std::vector<size_t> order(keys.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return keys[a] > keys[b]; });
    return order;
}

// Distinct rows in the order of their first occurrence, and the place of each. `table` (by row) is reused, so that a
// request costs what it finds: it has `NONE` everywhere while nobody uses it.
class Found {
  public:
    using Table = std::vector<int32_t>;

    Found(Table& table, size_t n_rows) : table_(table) {
        if (n_rows > table.size()) table.resize(n_rows + n_rows / 8, NONE);
    }
    ~Found() {
        for (int32_t row : rows) table_[static_cast<size_t>(row)] = NONE;
    }
    Found(const Found&) = delete;
    Found& operator=(const Found&) = delete;

    size_t place_of(int32_t row) {
        int32_t& place = table_[static_cast<size_t>(row)];
        if (place == NONE) {
            place = static_cast<int32_t>(rows.size());
            rows.push_back(row);
        }
        return static_cast<size_t>(place);
    }

    Rows rows;

  private:
    static constexpr int32_t NONE = -1;
    Table& table_;
};

// What this request must not show. Marks live in a table that is reused.
class Hidden {
  public:
    static constexpr uint8_t SEEN = 1, EXCLUDED = 2;

    // eligible: by row; empty: all are. Rows beyond its end are not.
    Hidden(std::vector<uint8_t>& marks, size_t n_rows, View<int32_t> seen, View<int32_t> excluded, View<bool> eligible)
        : marks_(marks), n_rows_(n_rows), seen_(seen), excluded_(excluded), eligible_(eligible) {
        if (n_rows > marks_.size()) marks_.resize(n_rows + n_rows / 8);
        for (const auto& rows : {seen, excluded}) {
            for (size_t i = 0; i < rows.rows; i++) check_row(rows[i]);
        }
        for (size_t i = 0; i < seen.rows; i++) mark(seen[i]) |= SEEN;
        for (size_t i = 0; i < excluded.rows; i++) mark(excluded[i]) |= EXCLUDED;
    }
    ~Hidden() {
        for (size_t i = 0; i < seen_.rows; i++) mark(seen_[i]) = 0;
        for (size_t i = 0; i < excluded_.rows; i++) mark(excluded_[i]) = 0;
    }
    Hidden(const Hidden&) = delete;
    Hidden& operator=(const Hidden&) = delete;

    size_t n_rows() const { return n_rows_; }
    void check_row(int32_t row) const {
        check(row >= 0 && static_cast<size_t>(row) < n_rows_, "a row that no item has");
    }
    uint8_t marks(int32_t row) const { return marks_[static_cast<size_t>(row)]; }
    bool is_eligible(int32_t row) const {
        const auto at = static_cast<size_t>(row);
        return !eligible_.rows || (at < eligible_.rows && eligible_[at]);
    }
    bool may_show(int32_t row) const { return !marks(row) && is_eligible(row); }

  private:
    uint8_t& mark(int32_t row) { return marks_[static_cast<size_t>(row)]; }

    std::vector<uint8_t>& marks_;
    size_t n_rows_;
    View<int32_t> seen_, excluded_;
    View<bool> eligible_;
};

// The first `limit` rows that may be shown, among the first `scanned`.
inline Rows allowed(View<int32_t> rows, size_t limit, size_t scanned, const Hidden& hidden) {
    Rows found;
    for (size_t i = 0; i < std::min(rows.rows, scanned) && found.size() < limit; i++) {
        hidden.check_row(rows[i]);
        if (hidden.may_show(rows[i])) found.push_back(rows[i]);
    }
    return found;
}

// `ItemToItemSource`: neighbours of the recent items by summed scores.
inline Rows item_to_item(View<int32_t> neighbours, View<float> scores, View<float> weights, View<int32_t> recent,
                         size_t limit, const Hidden& hidden, Found::Table& table) {
    check(scores.rows == neighbours.rows && scores.width == neighbours.width, "a score per neighbour");
    Found found(table, hidden.n_rows());
    std::vector<double> totals;
    size_t starts = 0;
    for (size_t i = 0; i < std::min(recent.rows, weights.rows); i++) {
        if (recent[i] < 0 || static_cast<size_t>(recent[i]) >= neighbours.rows) continue;  // newer than the bundle
        const float weight = weights[starts++];
        const int32_t* near = neighbours.row(static_cast<size_t>(recent[i]));
        const float* of_near = scores.row(static_cast<size_t>(recent[i]));
        for (size_t j = 0; j < neighbours.width; j++) {
            if (near[j] < 0) continue;
            hidden.check_row(near[j]);
            const size_t place = found.place_of(near[j]);
            if (place == totals.size()) totals.push_back(0);
            totals[place] += static_cast<double>(of_near[j] * weight);
        }
    }
    Rows shown;
    for (size_t place : descending(totals)) {
        if (shown.size() == limit) break;
        if (hidden.may_show(found.rows[place])) shown.push_back(found.rows[place]);
    }
    return shown;
}

// `PopularInCategoriesSource`. by_category: code → rows, the best first.
inline Rows popular_in_categories(const py::dict& by_category, View<int32_t> main_category, View<int32_t> recent,
                                  size_t newest, size_t limit, size_t hidden_rows, const Hidden& hidden) {
    std::vector<std::pair<int32_t, double>> weights;  // in the order of first occurrence, as their sum
    for (size_t age = 0; age < std::min(recent.rows, newest); age++) {
        check(recent[age] >= 0 && static_cast<size_t>(recent[age]) < main_category.rows, "a row that no item has");
        const int32_t code = main_category[static_cast<size_t>(recent[age])];
        if (code < 0) continue;
        auto known = std::find_if(weights.begin(), weights.end(), [&](auto& w) { return w.first == code; });
        if (known == weights.end()) known = weights.insert(known, {code, 0.0});
        known->second += std::pow(0.9, static_cast<double>(age));
    }
    double total = 0;
    for (const auto& [code, weight] : weights) total += weight;
    std::sort(weights.begin(), weights.end());
    Rows found;
    std::vector<double> priorities;
    for (const auto& [code, weight] : weights) {
        const py::int_ key(code);
        if (!by_category.contains(key)) continue;
        const auto rows = py::cast<Array<int32_t>>(by_category[key]);
        const auto quota = static_cast<size_t>(std::ceil(static_cast<double>(limit) * weight / total));
        const Rows best = allowed(view(rows, "rows of a category"), quota, quota + hidden_rows, hidden);
        for (size_t i = 0; i < best.size(); i++) priorities.push_back(weight / static_cast<double>(i + 1));
        found.insert(found.end(), best.begin(), best.end());
    }
    Rows shown;
    for (size_t place : descending(priorities)) {
        if (shown.size() == limit) break;
        shown.push_back(found[place]);
    }
    return shown;
}

// `FreshSource`: the newest, then those whose turn it is.
inline Rows fresh(View<int32_t> pool, size_t limit, int64_t turns, const Hidden& hidden) {
    const Rows open = allowed(pool, pool.rows, pool.rows, hidden);
    const size_t first = std::min(open.size(), limit - limit / 2), behind = open.size() - first;
    Rows shown(open.begin(), open.begin() + static_cast<std::ptrdiff_t>(first));
    const size_t taken = std::min(behind, limit / 2);
    const size_t turn = behind ? static_cast<size_t>(turns) * (limit / 2) % behind : 0;
    for (size_t i = 0; i < taken; i++) shown.push_back(open[first + (turn + i) % behind]);
    return shown;
}

struct Channel {
    Rows rows;  // the best first, no repeats
    size_t quota;
    float weight;
};

struct Merged {
    Rows rows;
    std::vector<int16_t> ranks;  // (rows, channels)
    std::vector<float> score;
};

// `QuotaMerger`: a quota of each channel, the rest by reciprocal rank fusion.
inline Merged merge(const std::vector<Channel>& channels, size_t limit, size_t n_rows, Found::Table& table) {
    constexpr double RRF_K = 60;
    constexpr int16_t ABSENT = -1;
    const size_t width = channels.size();
    Found found(table, n_rows);
    Merged all;
    std::vector<uint8_t> sure;
    for (size_t c = 0; c < width; c++) {
        const Channel& channel = channels[c];
        for (size_t rank = 0; rank < channel.rows.size(); rank++) {
            const size_t place = found.place_of(channel.rows[rank]);
            if (place == sure.size()) {
                sure.push_back(0);
                all.score.push_back(0);
                all.ranks.insert(all.ranks.end(), width, ABSENT);
            }
            const double part = static_cast<double>(channel.weight) / (static_cast<double>(rank) + RRF_K + 1);
            all.ranks[place * width + c] = static_cast<int16_t>(std::min<size_t>(rank, INT16_MAX));
            all.score[place] = static_cast<float>(static_cast<double>(all.score[place]) + part);
            sure[place] |= rank < channel.quota;
        }
    }
    all.rows = found.rows;
    const auto guaranteed = static_cast<size_t>(std::count(sure.begin(), sure.end(), 1));
    size_t room = all.rows.size() <= limit ? limit : limit - std::min(guaranteed, limit);
    Merged kept;
    for (size_t place : descending(all.score)) {
        if (!sure[place]) {
            if (!room) continue;
            room--;
        }
        kept.rows.push_back(all.rows[place]);
        kept.score.push_back(all.score[place]);
        kept.ranks.insert(kept.ranks.end(), &all.ranks[place * width], &all.ranks[place * width] + width);
    }
    return kept;
}

struct Removed {  // counts by reason, as the filters find them one after the other
    size_t seen = 0, excluded = 0, deleted = 0;
    Rows ineligible;
    size_t after_seen = 0, after_deleted = 0, after_eligible = 0;
};

// `SeenFilter`, `DeletedFilter`, `EligibleFilter`: compacts the candidates in place.
inline Removed filter(Merged& merged, size_t width, View<bool> alive, const Hidden& hidden) {
    Removed removed;
    size_t kept = 0;
    for (size_t i = 0; i < merged.rows.size(); i++) {
        const int32_t row = merged.rows[i];
        const uint8_t marks = hidden.marks(row);
        removed.seen += (marks & Hidden::SEEN) != 0;
        removed.excluded += (marks & Hidden::EXCLUDED) != 0;
        if (marks) continue;
        removed.after_seen++;
        if (!alive[static_cast<size_t>(row)]) {
            removed.deleted++;
            continue;
        }
        removed.after_deleted++;
        if (!hidden.is_eligible(row)) {
            removed.ineligible.push_back(row);
            continue;
        }
        merged.rows[kept] = row;
        merged.score[kept] = merged.score[i];
        std::copy_n(&merged.ranks[i * width], width, &merged.ranks[kept * width]);
        kept++;
    }
    removed.after_eligible = kept;
    merged.rows.resize(kept);
    merged.score.resize(kept);
    merged.ranks.resize(kept * width);
    return removed;
}

}  // namespace recsys
