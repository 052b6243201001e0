// What the compiled ranker reads: weights, a user's history, candidates.
#pragma once
#include <cstdint>
#include <vector>

#include "linear.hpp"

namespace recsys {

constexpr size_t HEADS = 4;
constexpr size_t OFFSETS = 2;  // of the first heads
constexpr float OFFSET_LIMIT = 20.0f;  // as `recsys.models.ranker`

struct RankerWeights {
    int64_t buckets = 0;      // items share 2 · buckets rows (`HashedTable`); 0: each has its own
    bool offset = false;      // whether the last features are added to log odds
    View<int8_t> rows;        // (2 · buckets + 1 or n_items + 1, width + HEADS)
    View<float> row_scale;    // (rows)
    View<uint8_t> codes;      // (n_items + 1, fields · bytes) a code of each field, the lowest byte first
    View<int32_t> starts;     // (fields): the row of `fields` where the codes of a field start
    View<float> fields;       // (rows, width): what each code of each field adds to an item's vector
    View<float> field_bias;   // (width)
    View<float> types, gaps;  // (n, width)
    View<float> positions;    // (n, position_width)
    View<float> mean, scale;  // (features)
    Linear query, key, value, down, up, wide, tower;
    std::vector<Linear> expert;

    size_t width() const { return field_bias.rows; }
    size_t features() const { return mean.rows; }
    size_t dimension() const { return 3 * width() + features() + positions.width; }
    size_t code_bytes() const { return starts.rows ? codes.width / starts.rows : 0; }
    // A row of `fields`.
    size_t code(size_t item, size_t field) const {
        const uint8_t* bytes = codes.row(item) + field * code_bytes();
        size_t found = 0;
        for (size_t i = code_bytes(); i-- > 0;) found = found << 8 | bytes[i];
        return static_cast<size_t>(starts[field]) + found;
    }
    int64_t n_items() const { return static_cast<int64_t>(codes.rows) - 1; }

    void validate() const {
        check(width() > 0 && rows.width == width() + HEADS, "rows: width + heads columns");
        check(codes.rows >= 1, "codes: a row for item 0");
        const size_t needed = buckets > 0 ? 2 * static_cast<size_t>(buckets) + 1 : codes.rows;
        check(buckets >= 0 && rows.rows == needed && row_scale.rows == rows.rows, "rows: as many as items or buckets");
        check(fields.width == width() && types.width == width() && gaps.width == width(), "tables of one width");
        check(types.rows > 0 && gaps.rows > 0 && positions.rows > 0, "an empty table");
        check(mean.rows == scale.rows, "a mean and a scale of each feature");
        check(!offset || features() >= OFFSETS, "offsets without features");
        check(codes.width == starts.rows * code_bytes() && code_bytes() <= 4, "codes: as many bytes for each field");
        for (size_t field = 0; field < starts.rows; field++) {
            check(starts[field] >= 0, "a field without a first row");
            for (size_t item = 0; item < codes.rows; item++) {
                check(code(item, field) < fields.rows, "a code without a row");
            }
        }
        for (const Linear* part : {&query, &key, &value}) {
            check(part->depth == width() && part->out == width(), "attention of another width");
        }
        check(down.depth == dimension() && up.depth == down.out && up.out == dimension(), "crosses of another width");
        check(wide.depth == dimension() && wide.out == HEADS && tower.out == HEADS, "an output for each head");
        size_t depth = dimension();
        for (const Linear& layer : expert) {
            check(layer.depth == depth, "expert layers that do not follow each other");
            depth = layer.out;
        }
        check(tower.depth == depth, "towers of another width");
    }
};

struct UserInput {
    View<int64_t> history, types, gaps;
};
struct CandidateInput {
    View<int64_t> items, positions;
    View<float> features;
};

}  // namespace recsys
