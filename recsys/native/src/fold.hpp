// A batch of events → the changes of `apply.lua`, summed: what `BatchEncoder` and `FeatureSet.fold` define in Python,
// byte for byte. Python's lock is held while the events are read, and not while they are folded.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "blake2b.hpp"
#include "changed_cells.hpp"
#include "packed.hpp"

namespace recsys {

constexpr int64_t MAX_AMOUNT = (int64_t{1} << 32) - 1;
constexpr char ID_SEPARATOR = '\x1f', CATEGORY_SEPARATOR = '|';
enum class Measure { ONE, VALUE, TIME, EXAMINED, LOG2 };
enum class Split { NONE, CATEGORY, CREATOR, ITEM };

struct Rule {
    bool of_user;
    uint64_t number;
    char op;  // + < >
    Measure measure;
    Split split;
    int64_t hop_ms;
    std::optional<double> least;
    double scale;
    bool attributed;
};

// Cells that count each user of an item once in a period: those of `cells`, with the first rule's conditions.
struct OnceRule {
    std::string signal;
    int64_t period_ms;
    std::vector<Rule> cells;
};

struct HistoryRule {
    std::string name;
    int64_t size;
};

struct Plan {
    std::string type;
    std::vector<Rule> rules;  // in the order in which Python adds their cells
    std::vector<OnceRule> once;
    std::vector<HistoryRule> histories;
};

struct FoldLimits {
    int64_t bucket_ms, buckets;
    size_t categories;
    std::vector<double> log2_steps;  // 2^(step / steps): of one octave
    std::vector<int64_t> looks_at;   // what an impression counts, by position; later ones as the last
};

struct FoldedInput {
    size_t plan;
    std::string_view key, event_id, user, item, categories, creator;
    int64_t time_ms;
    int64_t position;
    bool named;  // has the id of the request that showed the item
    std::optional<double> value;
};

inline uint32_t crc32(std::string_view text) {
    static const auto table = [] {
        std::array<uint32_t, 256> made{};
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t x = i;
            for (int bit = 0; bit < 8; bit++) x = x & 1 ? 0xedb88320 ^ x >> 1 : x >> 1;
            made[i] = x;
        }
        return made;
    }();
    uint32_t crc = 0xffffffff;
    for (unsigned char c : text) crc = table[(crc ^ c) & 0xff] ^ crc >> 8;
    return ~crc;
}

// The parts of a batch that Python joins with its header, and the two binary arguments.
struct FoldedBatch {
    Packed ids, visits, users, items, once;
    std::string keys, fields;
};

class BatchFold {
  public:
    BatchFold(std::vector<Plan> plans, FoldLimits limits) : plans_(std::move(plans)), limits_(limits) {}

    const std::vector<Plan>& plans() const { return plans_; }

    FoldedBatch fold(const std::vector<FoldedInput>& events) const {
        Work work;
        for (const FoldedInput& event : events) add(work, event);
        return packed(work);
    }

  private:
    struct Group {  // keys that count once in the same cells
        size_t row;
        int64_t bucket;
        std::vector<uint64_t> codes;
        std::vector<std::string> keys;
    };
    struct Visits {
        const HistoryRule* history;
        std::string_view user;
        std::vector<std::pair<int64_t, std::string>> members;
    };
    struct Work {
        Numbers buckets, histories, groups;
        std::vector<std::pair<int64_t, std::vector<std::string_view>>> ids;
        std::vector<Visits> visits;
        std::vector<Group> once;
        std::unordered_set<std::string> counted;  // number of the group, and key
        ChangedCells users, items;
        std::vector<uint64_t> found;
    };

    static bool accepts(const Rule& rule, const FoldedInput& event) {
        if (rule.attributed && !event.named) return false;
        const bool of_value = rule.measure == Measure::VALUE || rule.measure == Measure::LOG2;
        if (of_value && !event.value) return false;
        return !rule.least || (event.value && *event.value >= *rule.least);
    }
    int64_t amount(const Rule& rule, const FoldedInput& event) const {
        if (rule.measure == Measure::ONE) return 1;
        if (rule.measure == Measure::TIME) return event.time_ms;
        if (rule.measure == Measure::EXAMINED) {
            const int64_t last = static_cast<int64_t>(limits_.looks_at.size()) - 1;
            return limits_.looks_at[static_cast<size_t>(std::min(event.position, last))];
        }
        if (rule.measure == Measure::LOG2) {
            int exponent = 0;
            const double mantissa = 2 * std::frexp(1.0 + std::max(*event.value, 0.0), &exponent);
            const auto& steps = limits_.log2_steps;
            const auto step = std::upper_bound(steps.begin(), steps.end(), mantissa) - steps.begin() - 1;
            return (exponent - 1) * static_cast<int64_t>(steps.size()) + static_cast<int64_t>(step);
        }
        const double exact = std::nearbyint(*event.value * rule.scale);  // half to even, as Python rounds
        return static_cast<int64_t>(std::clamp(exact, 0.0, static_cast<double>(MAX_AMOUNT)));
    }
    static uint64_t stem(const Rule& rule, int64_t time_ms) {
        const uint64_t tile = rule.hop_ms ? static_cast<uint64_t>(time_ms / rule.hop_ms) : 0;
        return (rule.number << 32 | tile) << 16;
    }
    uint64_t bucket(std::string_view text) const { return crc32(text) % static_cast<uint64_t>(limits_.buckets); }

    void buckets_of(Split split, const FoldedInput& event, std::vector<uint64_t>& into) const {
        into.clear();
        if (split == Split::NONE) into.push_back(0);
        else if (split == Split::ITEM) into.push_back(bucket(event.item));
        else if (split == Split::CREATOR) {
            if (!event.creator.empty()) into.push_back(bucket(event.creator));
        } else if (!event.categories.empty()) {
            std::string_view rest = event.categories;
            while (into.size() < limits_.categories) {
                const size_t end = rest.find(CATEGORY_SEPARATOR);
                into.push_back(bucket(rest.substr(0, end)));
                if (end == std::string_view::npos) break;
                rest.remove_prefix(end + 1);
            }
        }
    }

    void add(Work& work, const FoldedInput& event) const {
        const Plan& plan = plans_[event.plan];
        const int64_t time_bucket = event.time_ms / limits_.bucket_ms;
        const size_t ids = work.buckets.of(std::to_string(time_bucket));
        if (ids == work.ids.size()) work.ids.push_back({time_bucket, {}});
        work.ids[ids].second.push_back(event.key);
        for (const bool of_user : {true, false}) add_cells(work, plan, event, of_user);
        for (const OnceRule& once : plan.once) {
            if (accepts(once.cells.front(), event)) add_once(work, once, event);
        }
        for (const HistoryRule& history : plan.histories) {
            std::string name = history.name + ID_SEPARATOR + std::string(event.user);
            const size_t number = work.histories.of(name);
            if (number == work.visits.size()) work.visits.push_back({&history, event.user, {}});
            std::string member(event.event_id);
            for (std::string_view part : {std::string_view(plan.type), event.item, event.categories}) {
                member.push_back(ID_SEPARATOR);
                member.append(part);
            }
            work.visits[number].members.emplace_back(event.time_ms, std::move(member));
        }
    }

    void add_cells(Work& work, const Plan& plan, const FoldedInput& event, bool of_user) const {
        ChangedCells& rows = of_user ? work.users : work.items;
        std::optional<size_t> row;
        std::optional<Split> split;
        for (const Rule& rule : plan.rules) {
            if (rule.of_user != of_user || !accepts(rule, event)) continue;
            if (split != rule.split) buckets_of(rule.split, event, work.found), split = rule.split;
            const uint64_t code = stem(rule, event.time_ms);
            for (uint64_t bucket : work.found) {
                if (!row) row = rows.row(of_user ? event.user : event.item);
                rows.change(*row, code | bucket, rule.op, amount(rule, event));
            }
        }
    }

    void add_once(Work& work, const OnceRule& once, const FoldedInput& event) const {
        const int64_t tile = event.time_ms / once.period_ms;
        const int64_t time_bucket = ((tile + 1) * once.period_ms - 1) / limits_.bucket_ms;
        Group group{work.items.row(event.item), time_bucket, {}, {}};
        std::string name = std::to_string(group.row) + " " + std::to_string(time_bucket);
        for (const Rule& rule : once.cells) {
            group.codes.push_back(stem(rule, tile * once.period_ms));
            work.items.once(group.row, group.codes.back(), rule.op);
            name += " " + std::to_string(group.codes.back());
        }
        const size_t number = work.groups.of(name);
        if (number == work.once.size()) work.once.push_back(std::move(group));
        std::string text = once.signal;
        for (const std::string& part : {std::to_string(once.period_ms), std::to_string(tile), std::string(event.user),
                                        std::string(event.item)}) {
            text.push_back(ID_SEPARATOR);
            text += part;
        }
        std::string key = blake2b_16(text);
        if (work.counted.insert(std::to_string(number) + " " + key).second) {
            work.once[number].keys.push_back(std::move(key));
        }
    }

    static FoldedBatch packed(Work& work) {
        FoldedBatch made;
        made.ids.array(work.ids.size());
        for (const auto& [bucket, keys] : work.ids) {
            made.ids.array(2);
            made.ids.integer(bucket);
            made.ids.integer(static_cast<int64_t>(keys.size()));
            for (std::string_view key : keys) made.keys.append(key);
        }
        made.visits.array(work.visits.size());
        for (const Visits& of : work.visits) {
            made.visits.array(4);
            made.visits.text(of.history->name);
            made.visits.text(of.user);
            made.visits.integer(of.history->size);
            made.visits.array(2 * of.members.size());
            for (const auto& [time_ms, member] : of.members) made.visits.integer(time_ms), made.visits.text(member);
        }
        made.once.array(work.once.size());
        for (const Group& group : work.once) {
            made.once.array(4);
            made.once.integer(static_cast<int64_t>(group.row) + 1);
            made.once.integer(group.bucket);
            made.once.integer(static_cast<int64_t>(group.keys.size()));
            made.once.array(group.codes.size());
            for (uint64_t code : group.codes) {
                made.once.integer(static_cast<int64_t>(work.items.place(group.row, code)));
            }
            for (const std::string& key : group.keys) made.keys += key;
        }
        work.users.pack(made.users, made.fields);
        work.items.pack(made.items, made.fields);
        return made;
    }

    std::vector<Plan> plans_;
    FoldLimits limits_;
};

}  // namespace recsys
