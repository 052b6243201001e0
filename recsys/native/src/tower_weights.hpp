// What the compiled user tower reads: weights, and a history's item vectors.
#pragma once
#include <cstdint>
#include <vector>

#include "linear.hpp"

namespace recsys {

struct TowerBlock {
    View<float> attention_norm, feed_forward_norm;  // (width)
    View<float> recency;                            // (heads, distances): a bias of each head and distance
    Linear qkv, out, gate_up, down;
};

struct TowerWeights {
    View<float> padding;      // (width): the item vector of padding
    View<float> types, gaps;  // (n, width)
    View<float> profile;      // (attributes, width), or none
    View<float> norm;         // (width)
    float scale = 1.0f;
    std::vector<TowerBlock> blocks;

    size_t width() const { return padding.rows; }
    size_t heads() const { return blocks[0].recency.rows; }
    bool takes_profile() const { return profile.rows > 0; }

    void validate() const {
        check(width() > 0 && !blocks.empty(), "a tower without blocks");
        check(types.width == width() && gaps.width == width() && norm.rows == width(), "tables of one width");
        check(!takes_profile() || profile.width == width(), "attributes of another width");
        check(heads() > 0 && width() % heads() == 0 && (width() / heads()) % LANES == 0,
              "heads whose width is no multiple of eight");
        for (const TowerBlock& block : blocks) {
            check(block.attention_norm.rows == width() && block.feed_forward_norm.rows == width(), "norms of one width");
            check(block.recency.rows == heads() && block.recency.width > 0, "a bias of each head and distance");
            check(block.qkv.depth == width() && block.qkv.out == 3 * width(), "queries, keys and values of one width");
            check(block.out.depth == width() && block.out.out == width(), "attention of another width");
            check(block.gate_up.depth == width() && block.gate_up.out == 2 * block.down.depth, "gates of one width");
            check(block.down.out == width() && block.down.depth % LANES == 0, "a feed-forward layer of another width");
        }
    }
};

// One user's; `items` are rows of item vectors, zeros for padding.
struct TowerInput {
    const float* items;
    const int64_t *types, *gaps, *profile;
    size_t length, attributes;
};

}  // namespace recsys
