// One pass of the ranker over a user's candidates. No guard: included once per instruction set, as simd.hpp.

struct RankerPass {
    static constexpr size_t BLOCK = 48;  // candidates at a time: their rows stay in the first-level caches

    const RankerWeights& w;
    const size_t width, dimension;
    const int64_t n_items;

    explicit RankerPass(const RankerWeights& weights)
        : w(weights), width(w.width()), dimension(w.dimension()), n_items(w.n_items()) {}

    struct User {
        std::vector<float> keys, values, mean;  // keys (width, padded events), values (events, width)
        std::vector<float> no_bias;
        size_t events = 0, padded = 0;
    };

    // The vector (width) and the biases (HEADS) of an item; numbers outside the vocabulary are 0, unknown.
    void item(int64_t number, float* vector, float* bias) const {
        if (number < 0 || number > n_items) number = 0;
        size_t first = static_cast<size_t>(number), second = 0;
        float second_scale = 0.0f;
        if (w.buckets > 0) {
            if (number > 0) {
                first = static_cast<size_t>(1 + number * 2654435761LL % 2147483647LL % w.buckets);
                second = static_cast<size_t>(1 + w.buckets + number * 2246822519LL % 2147483647LL % w.buckets);
            }
            second_scale = w.row_scale[second];
        }
        const int8_t *one = w.rows.row(first), *other = w.rows.row(second);
        const float one_scale = w.row_scale[first];
        for (size_t j = 0; j < width; j++) {
            vector[j] = static_cast<float>(one[j]) * one_scale + static_cast<float>(other[j]) * second_scale;
        }
        if (bias != nullptr) {
            for (size_t j = width; j < width + HEADS; j++) {
                bias[j - width] = static_cast<float>(one[j]) * one_scale + static_cast<float>(other[j]) * second_scale;
            }
        }
        for (size_t field = 0; field < w.starts.rows; field++) {
            const float* row = w.fields.row(w.code(static_cast<size_t>(number), field));
            for (size_t j = 0; j < width; j++) vector[j] += row[j];
        }
        for (size_t j = 0; j < width; j++) vector[j] += w.field_bias[j];
    }

    // Keys and values of the real events, and their mean.
    User remember(const UserInput& given) const {
        User user;
        user.mean.assign(width, 0.0f);
        std::vector<float> events;
        for (size_t i = 0; i < given.history.rows; i++) {
            const int64_t number = given.history[i];
            if (number <= 0 || number > n_items) continue;
            const auto row = [](int64_t code, size_t rows) {
                return code >= 0 && static_cast<size_t>(code) < rows ? static_cast<size_t>(code) : 0;
            };
            const float* type = w.types.row(row(given.types[i], w.types.rows));
            const float* gap = w.gaps.row(row(given.gaps[i], w.gaps.rows));
            events.resize((user.events + 1) * width);
            float* event = events.data() + user.events * width;
            item(number, event, nullptr);
            for (size_t j = 0; j < width; j++) {
                event[j] += type[j] + gap[j];
                user.mean[j] += event[j];
            }
            user.events++;
        }
        user.padded = simd::padded(user.events);
        user.no_bias.assign(std::max(user.padded, w.value.width), 0.0f);
        if (user.events == 0) return user;
        for (float& sum : user.mean) sum /= static_cast<float>(user.events);
        std::vector<float> keys(user.events * w.key.width);
        user.values.resize(user.events * w.value.width);
        simd::product(events.data(), user.events, width, width, w.key.weights.data(), w.key.width, w.key.bias.data(),
                      keys.data(), w.key.width);
        simd::product(events.data(), user.events, width, width, w.value.weights.data(), w.value.width,
                      w.value.bias.data(), user.values.data(), w.value.width);
        const float scale = 1.0f / std::sqrt(static_cast<float>(width));
        user.keys.assign(width * user.padded, 0.0f);
        for (size_t i = 0; i < user.events; i++) {
            for (size_t j = 0; j < width; j++) user.keys[j * user.padded + i] = keys[i * w.key.width + j] * scale;
        }
        return user;
    }

    // sign(x) · log(|x| + 1), standardised and clipped; NaN is 0. As `NumericFeatures.standardise`.
    void standardise(const float* raw, float* into) const {
        const size_t n = w.mean.rows;
        for (size_t j = 0; j < n; j += LANES) {
            simd::Floats x{}, mean{}, scale{};
            const size_t bytes = 4 * std::min(LANES, n - j);
            std::memcpy(&x, raw + j, bytes);
            std::memcpy(&mean, w.mean.data + j, bytes);
            std::memcpy(&scale, w.scale.data + j, bytes);
            const simd::Floats one = simd::Floats{} + 1.0f, clip = simd::Floats{} + 6.0f;
            simd::Floats sign = x * 1e30f, logged = (x < 0.0f ? -x : x) + 1.0f;
            sign = sign < -one ? -one : sign;
            sign = sign > one ? one : sign;
            simd::log_of(logged);
            simd::Floats z = logged * sign * scale - mean * scale;
            z = z == z ? z : simd::Floats{};  // NaN
            z = x == x ? z : simd::Floats{};  // the logarithm above does not keep it
            z = z < -clip ? -clip : z;
            z = z > clip ? clip : z;
            std::memcpy(into + j, &z, bytes);
        }
    }

    // What n candidates read from the history: softmax(queries · keys) · values. scores: (n, padded events), scratch.
    void attend(const User& user, const float* queries, size_t n, float* scores, float* into,
                              size_t stride) const {
        const size_t m = user.padded;
        simd::product(queries, n, w.query.width, width, user.keys.data(), m, user.no_bias.data(), scores, m);
        for (size_t i = 0; i < n; i++) {
            float* row = scores + i * m;
            float most = row[0];
            for (size_t t = 1; t < user.events; t++) most = std::max(most, row[t]);
            for (size_t t = user.events; t < m; t++) row[t] = -std::numeric_limits<float>::max();
            simd::Floats sums{};
            for (size_t t = 0; t < m; t += LANES) {
                simd::Floats weights;
                simd::load(row + t, weights);
                weights = weights - most;
                simd::exp_of(weights);
                simd::store(weights, row + t);
                if (t + LANES <= user.events) sums += weights;
            }
            float total = 0.0f;
            for (size_t lane = 0; lane < LANES; lane++) total += sums[lane];
            for (size_t t = user.events / LANES * LANES; t < user.events; t++) total += row[t];
            for (size_t t = 0; t < user.events; t++) row[t] /= total;
        }
        std::vector<float> read(n * w.value.width);
        simd::product(scores, n, m, user.events, user.values.data(), w.value.width, user.no_bias.data(), read.data(),
                      w.value.width);
        for (size_t i = 0; i < n; i++) {
            std::memcpy(into + i * stride, read.data() + i * w.value.width, 4 * width);
        }
    }

    static float bounded(float offset) {
        return std::isnan(offset) ? 0.0f : std::min(std::max(offset, -OFFSET_LIMIT), OFFSET_LIMIT);
    }

    void score(const UserInput& user_input, const CandidateInput& given, float* heads) const {
        const User user = remember(user_input);
        const size_t n_all = given.items.rows, stride = simd::padded(dimension);
        size_t widest = std::max(w.down.width, w.up.width);
        for (const Linear& layer : w.expert) widest = std::max(widest, layer.width);
        std::vector<float> x(BLOCK * stride), queries(BLOCK * w.query.width), linear(BLOCK * w.wide.width),
            one(BLOCK * std::max(widest, w.tower.width)), other(BLOCK * widest), bias(BLOCK * HEADS),
            scores(BLOCK * user.padded);
        for (size_t begin = 0; begin < n_all; begin += BLOCK) {
            const size_t n = std::min(BLOCK, n_all - begin);
            for (size_t i = 0; i < n; i++) {
                float* row = x.data() + i * stride;
                item(given.items[begin + i], row, bias.data() + i * HEADS);
                for (size_t j = 0; j < width; j++) {
                    row[width + j] = 0.0f;
                    row[2 * width + j] = row[j] * user.mean[j];
                }
                standardise(given.features.row(begin + i), row + 3 * width);
                const int64_t last = static_cast<int64_t>(w.positions.rows) - 1;
                const int64_t place = std::min(std::max<int64_t>(given.positions[begin + i], 0), last);
                std::memcpy(row + 3 * width + w.mean.rows, w.positions.row(static_cast<size_t>(place)),
                            4 * w.positions.width);
            }
            if (user.events > 0) {
                simd::product(x.data(), n, stride, width, w.query.weights.data(), w.query.width, w.query.bias.data(),
                              queries.data(), w.query.width);
                attend(user, queries.data(), n, scores.data(), x.data() + width, stride);
            }
            simd::product(x.data(), n, stride, dimension, w.wide.weights.data(), w.wide.width, w.wide.bias.data(),
                          linear.data(), w.wide.width);
            simd::product(x.data(), n, stride, dimension, w.down.weights.data(), w.down.width, w.down.bias.data(),
                          one.data(), w.down.width);
            simd::product(one.data(), n, w.down.width, w.down.out, w.up.weights.data(), w.up.width, w.up.bias.data(),
                          other.data(), w.up.width);
            for (size_t i = 0; i < n; i++) {
                float *row = x.data() + i * stride, *crossed = other.data() + i * w.up.width;
                for (size_t j = 0; j < dimension; j++) row[j] += row[j] * crossed[j];
            }
            const float* input = x.data();
            size_t input_stride = stride;
            float *output = one.data(), *next = other.data();
            for (const Linear& layer : w.expert) {
                simd::product(input, n, input_stride, layer.depth, layer.weights.data(), layer.width, layer.bias.data(),
                              output, layer.width);
                for (size_t i = 0; i < n * layer.width; i++) output[i] = output[i] > 0.0f ? output[i] : 0.0f;
                input = output, input_stride = layer.width;
                std::swap(output, next);
            }
            std::vector<float> towers(n * w.tower.width);
            simd::product(input, n, input_stride, w.tower.depth, w.tower.weights.data(), w.tower.width,
                          w.tower.bias.data(), towers.data(), w.tower.width);
            for (size_t i = 0; i < n; i++) {
                for (size_t head = 0; w.offset && head < OFFSETS; head++) {
                    bias[i * HEADS + head] += bounded(given.features.row(begin + i)[w.features() - OFFSETS + head]);
                }
                for (size_t head = 0; head < HEADS; head++) {
                    const float logit = towers[i * w.tower.width + head] + linear[i * w.wide.width + head] +
                                        bias[i * HEADS + head];
                    heads[head * n_all + begin + i] =
                        head == HEADS - 1 ? (logit > 0.0f ? logit : 0.0f) : 1.0f / (1.0f + std::exp(-logit));
                }
            }
        }
    }
};
