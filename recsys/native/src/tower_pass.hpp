// One pass of the user tower over a user's history. No guard: included once per instruction set, as simd.hpp.

struct TowerPass {
    const TowerWeights& w;
    const size_t width, heads, of_head;

    explicit TowerPass(const TowerWeights& weights)
        : w(weights), width(w.width()), heads(w.heads()), of_head(width / heads) {}

    // The events that any other attends to, and the newest one. Padding reads only itself, so its rows are left out.
    struct Events {
        std::vector<float> x;         // (n, width)
        std::vector<size_t> position;  // in the whole history
        std::vector<char> real;
        size_t n = 0;
    };

    Events embed(const TowerInput& given) const {
        Events events;
        const std::vector<float> profile = mean_profile(given);
        const float root = std::sqrt(static_cast<float>(width));
        for (size_t i = 0; i < given.length; i++) {
            const float* item = given.items + i * width;
            const bool real = std::any_of(item, item + width, [](float value) { return value != 0.0f; });
            if (!real && i + 1 < given.length) continue;
            const float* vector = real ? item : w.padding.data;
            const float* type = row(w.types, given.types[i]);
            const float* gap = row(w.gaps, given.gaps[i]);
            events.x.resize((events.n + 1) * width);
            float* into = events.x.data() + events.n * width;
            for (size_t j = 0; j < width; j++) into[j] = vector[j] * root + type[j] + gap[j] + profile[j];
            events.position.push_back(i);
            events.real.push_back(real);
            events.n++;
        }
        return events;
    }

    // The mean of the known attributes' rows; row 0 stands for an unknown one.
    std::vector<float> mean_profile(const TowerInput& given) const {
        std::vector<float> mean(width, 0.0f);
        size_t known = 0;
        for (size_t i = 0; i < given.attributes; i++) {
            const float* attribute = row(w.profile, given.profile[i]);
            if (given.profile[i] == 0) continue;
            for (size_t j = 0; j < width; j++) mean[j] += attribute[j];
            known++;
        }
        for (float& value : mean) value /= static_cast<float>(std::max<size_t>(known, 1));
        return mean;
    }

    static const float* row(View<float> table, int64_t number) {
        check(number >= 0 && static_cast<size_t>(number) < table.rows, "a type, gap or attribute without a row");
        return table.row(static_cast<size_t>(number));
    }

    // into (n, width) = x / root mean square of each row · weight
    void norm(const float* x, size_t n, View<float> weight, float* into) const {
        for (size_t i = 0; i < n; i++) {
            float squares = 0.0f;
            for (size_t j = 0; j < width; j++) squares += x[i * width + j] * x[i * width + j];
            const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + 1e-6f);
            for (size_t j = 0; j < width; j++) into[i * width + j] = x[i * width + j] * scale * weight[j];
        }
    }

    static void apply(const Linear& layer, const float* x, size_t n, size_t stride, float* into) {
        simd::product(x, n, stride, layer.depth, layer.weights.data(), layer.width, layer.bias.data(), into, layer.width);
    }

    // Adds what the events from `first` on read from those before them and from themselves.
    void attend(const TowerBlock& block, Events& events, size_t first) const {
        const size_t n = events.n, queries = n - first, padded = simd::padded(n), stride = block.qkv.width;
        std::vector<float> normed(n * width), qkv(n * stride), keys(of_head * padded), values(n * of_head),
            scores(queries * padded), read(queries * of_head), joined(queries * width), zeros(padded + of_head);
        norm(events.x.data(), n, block.attention_norm, normed.data());
        apply(block.qkv, normed.data(), n, width, qkv.data());
        const float scale = 1.0f / std::sqrt(static_cast<float>(of_head));
        for (size_t head = 0; head < heads; head++) {
            const float *query = qkv.data() + first * stride + head * of_head, *key = qkv.data() + width + head * of_head,
                        *value = key + width;
            for (size_t i = 0; i < n; i++) {
                for (size_t j = 0; j < of_head; j++) {
                    keys[j * padded + i] = key[i * stride + j] * scale;
                    values[i * of_head + j] = value[i * stride + j];
                }
            }
            simd::product(query, queries, stride, of_head, keys.data(), padded, zeros.data(), scores.data(), padded);
            for (size_t i = 0; i < queries; i++) {
                weigh(block.recency.row(head), block.recency.width, events, first + i, scores.data() + i * padded);
            }
            simd::product(scores.data(), queries, padded, n, values.data(), of_head, zeros.data(), read.data(), of_head);
            for (size_t i = 0; i < queries; i++) {
                std::copy_n(read.data() + i * of_head, of_head, joined.data() + i * width + head * of_head);
            }
        }
        std::vector<float> found(queries * block.out.width);
        apply(block.out, joined.data(), queries, width, found.data());
        add(found.data(), block.out.width, events, first);
    }

    // Scores of one query → weights of the real events before it and of itself; 0 for all others.
    void weigh(const float* recency, size_t distances, const Events& events, size_t query, float* scores) const {
        float most = -std::numeric_limits<float>::infinity();
        for (size_t j = 0; j <= query; j++) {
            if (!events.real[j] && j != query) continue;
            scores[j] += recency[std::min(events.position[query] - events.position[j], distances - 1)];
            most = std::max(most, scores[j]);
        }
        for (size_t j = 0; j <= query; j += LANES) {
            simd::Floats some;
            simd::load(scores + j, some);
            some = some - most;
            simd::exp_of(some);
            simd::store(some, scores + j);
        }
        float total = 0.0f;
        for (size_t j = 0; j < events.n; j++) {
            if (j > query || (!events.real[j] && j != query)) scores[j] = 0.0f;
            total += scores[j];
        }
        for (size_t j = 0; j <= query; j++) scores[j] /= total;
    }

    void feed_forward(const TowerBlock& block, Events& events, size_t first) const {
        const size_t n = events.n - first, hidden = block.down.depth;
        std::vector<float> normed(n * width), gates(n * block.gate_up.width), inner(n * hidden), found(n * block.down.width);
        norm(events.x.data() + first * width, n, block.feed_forward_norm, normed.data());
        apply(block.gate_up, normed.data(), n, width, gates.data());
        for (size_t i = 0; i < n; i++) {
            const float *gate = gates.data() + i * block.gate_up.width, *up = gate + hidden;
            for (size_t j = 0; j < hidden; j += LANES) {
                simd::Floats x, y;
                simd::load(gate + j, x);
                simd::load(up + j, y);
                simd::Floats e = -x;
                simd::exp_of(e);
                simd::store(x / (e + 1.0f) * y, inner.data() + i * hidden + j);
            }
        }
        apply(block.down, inner.data(), n, hidden, found.data());
        add(found.data(), block.down.width, events, first);
    }

    void add(const float* found, size_t stride, Events& events, size_t first) const {
        for (size_t i = first; i < events.n; i++) {
            for (size_t j = 0; j < width; j++) events.x[i * width + j] += found[(i - first) * stride + j];
        }
    }

    // into (width): the newest event's vector. The last block computes no other.
    void vector(const TowerInput& given, float* into) const {
        Events events = embed(given);
        for (const TowerBlock& block : w.blocks) {
            const size_t first = &block == &w.blocks.back() ? events.n - 1 : 0;
            attend(block, events, first);
            feed_forward(block, events, first);
        }
        norm(events.x.data() + (events.n - 1) * width, 1, w.norm, into);
        float squares = 0.0f;
        for (size_t j = 0; j < width; j++) squares += into[j] * into[j];
        const float scale = w.scale / std::max(std::sqrt(squares), 1e-12f);
        for (size_t j = 0; j < width; j++) into[j] *= scale;
    }
};
