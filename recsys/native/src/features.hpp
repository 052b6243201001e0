// The feature matrix of one user and N items: the counterpart of `recsys.features.assemble`, with the same bits.
//
// A feature is an operation (kinds.hpp) on columns with an integer by candidate.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "arrays.hpp"
#include "kinds.hpp"
#include "totals.hpp"
#include "visits.hpp"

namespace recsys {

enum class Space : int { PLAIN, CATEGORY, CREATOR, ITEM, TICKING, CREATED, NUMBERS, QUERY };
enum class Match : int { ANY, ITEM, CATEGORY };

struct Operand {
    Space space;
    int64_t place;
};
struct Feature {
    Kind kind;
    int64_t column;
    std::vector<Operand> operands;
    std::vector<double> numbers;
};
struct HistoryQuery {
    size_t history;
    Match match;
    size_t newest;
};
struct Run {  // consecutive columns: from `here` in the steady values to `there` in the matrix
    int64_t there, here, length;
};
struct Table {  // of a split: `members` sums per bucket, from `base` on
    int64_t base, members;
};

struct Items {  // what is known of the rows' items; by row, except `steady` and `ticking`, which are by candidate
    View<int64_t> categories, creators, ids, category_counts, created_ms;
    View<float> steady;
    std::vector<View<int64_t>> ticking;
};

class FeatureProgram {
  public:
    FeatureProgram(size_t dimension, UserTotals totals, int64_t plain, std::vector<Table> tables,
                   std::vector<HistoryQuery> queries, std::vector<Feature> shared, std::vector<Feature> paired,
                   std::vector<Run> steady, py::function category_buckets)
        : dimension_(dimension), totals_(std::move(totals)), plain_(plain), tables_(std::move(tables)),
          queries_(std::move(queries)), shared_(std::move(shared)), paired_(std::move(paired)),
          steady_(std::move(steady)), buckets_(std::move(category_buckets)) {
        check(tables_.size() == 3, "a table per split");
        for (const auto& features : {shared_, paired_}) {
            for (const Feature& f : features) check_feature(f);
        }
        for (const Run& run : steady_) {
            check(run.here == static_cast<int64_t>(steady_width_) && run.length > 0, "runs without holes");
            check(run.there >= 0 && run.there + run.length <= signed_dimension(), "a column outside");
            steady_width_ += static_cast<size_t>(run.length);
        }
    }

    // histories: by number, each a list of visits, oldest first. rows_by_id: item id → row. matrix: (N, dimension).
    void assemble(View<int64_t> codes, View<int64_t> amounts, const std::vector<py::list>& histories,
                  const std::vector<double>& numbers, const py::dict& rows_by_id, const Items& items,
                  View<int32_t> rows, int64_t now_ms, float* matrix) {
        check(codes.rows == amounts.rows, "as many codes as amounts");
        check(items.steady.rows == rows.rows && items.steady.width == steady_width_, "steady values of every row");
        const size_t known = std::min({items.categories.rows, items.creators.rows, items.ids.rows,
                                       items.category_counts.rows, items.created_ms.rows});
        for (size_t i = 0; i < rows.rows; i++) {
            check(rows[i] >= 0 && static_cast<size_t>(rows[i]) < known, "a row that no item has");
        }
        Request request(*this, items, rows, now_ms, numbers);
        request.read_totals(codes, amounts);
        request.read_visits(histories, rows_by_id);
        request.fill(matrix);
    }

    size_t dimension() const { return dimension_; }

  private:
    using Doubles = std::vector<double>;

    struct Visited {  // one history's latest visits
        Doubles times{0};  // from 1; 0: none
        std::vector<int64_t> rows;
        std::vector<int64_t> by_bucket = std::vector<int64_t>(BUCKETS + 1);
    };

    // What one request computes on the way.
    struct Request {
        FeatureProgram& program;
        const Items& items;
        View<int32_t> rows;
        int64_t now_ms;
        const Doubles& numbers;
        size_t n = rows.rows;
        Doubles plain, counts, created, ones;
        std::vector<Doubles> split[3], ticking;
        std::vector<Visited> visited;
        std::vector<std::vector<int64_t>> masks;  // by query

        Request(FeatureProgram& p, const Items& i, View<int32_t> r, int64_t now, const Doubles& values)
            : program(p), items(i), rows(r), now_ms(now), numbers(values), counts(n), created(n), ones(std::max<size_t>(n, 1), 1.0) {
            for (size_t k = 0; k < n; k++) {
                counts[k] = static_cast<double>(items.category_counts[static_cast<size_t>(rows[k])]);
                created[k] = static_cast<double>(items.created_ms[static_cast<size_t>(rows[k])]);
            }
            for (const auto& total : items.ticking) ticking.emplace_back(total.data, total.data + n);
        }

        void read_totals(View<int64_t> codes, View<int64_t> amounts) {
            auto& sums = program.sums_;
            auto& touched = program.touched_;
            sums.resize(static_cast<size_t>(program.totals_.size()));
            program.totals_.add(codes, amounts, now_ms, sums, touched);
            for (int64_t i = 0; i < program.plain_; i++) {
                plain.push_back(static_cast<double>(saturated(sums[static_cast<size_t>(i)])));
            }
            const View<int64_t> buckets[] = {items.categories, items.creators, items.ids};
            for (size_t s = 0; s < 3; s++) gather(sums, program.tables_[s], buckets[s], split[s]);
            for (int64_t place : touched) sums[static_cast<size_t>(place)] = 0;
            touched.clear();
        }

        // For each member of a split, the sum over the candidate's buckets.
        void gather(const std::vector<int64_t>& sums, Table table, View<int64_t> buckets,
                    std::vector<Doubles>& found) const {
            const auto members = static_cast<size_t>(table.members);
            found.assign(members, Doubles(n));
            if (!members) return;
            const int64_t* start = sums.data() + table.base;
            for (size_t i = 0; i < n; i++) {
                const int64_t* of_row = buckets.row(static_cast<size_t>(rows[i]));
                for (size_t b = 0; b < buckets.width; b++) {
                    check(of_row[b] >= 0 && of_row[b] <= BUCKETS, "a bucket outside");
                }
                for (size_t m = 0; m < members; m++) {
                    uint64_t sum = 0;
                    for (size_t b = 0; b < buckets.width; b++) {
                        sum += static_cast<uint64_t>(start[of_row[b] * table.members + static_cast<int64_t>(m)]);
                    }
                    found[m][i] = static_cast<double>(saturated(static_cast<int64_t>(sum)));
                }
            }
        }

        void read_visits(const std::vector<py::list>& histories, const py::dict& rows_by_id) {
            visited.resize(histories.size());
            for (size_t h = 0; h < histories.size(); h++) read_history(histories[h], rows_by_id, visited[h]);
            for (const HistoryQuery& query : program.queries_) {
                check(query.history < visited.size(), "a history outside");
                masks.push_back(mask(query, visited[query.history]));
            }
        }

        void read_history(const py::list& visits, const py::dict& rows_by_id, Visited& into) const {
            const size_t first = visits.size() > MAX_VISITS ? visits.size() - MAX_VISITS : 0;
            for (size_t i = first; i < visits.size(); i++) {
                PyObject* visit = PyList_GET_ITEM(visits.ptr(), static_cast<Py_ssize_t>(i));
                const int64_t bit = int64_t{1} << (i - first);
                into.times.push_back(static_cast<double>(time_of(visit)));
                into.rows.push_back(number_of(rows_by_id.ptr(), field_of(visit, 3), -1));
                program.buckets_.each(field_of(visit, 4), [&](int64_t bucket) {
                    check(bucket >= 0 && bucket < BUCKETS, "a bucket outside");
                    into.by_bucket[static_cast<size_t>(bucket)] |= bit;
                });
            }
        }

        // By candidate, bit i: the i-th of the latest visits matches, and is among the newest that the query reads.
        std::vector<int64_t> mask(const HistoryQuery& query, const Visited& visits) const {
            const size_t m = visits.rows.size(), older = m > query.newest ? m - query.newest : 0;
            std::vector<int64_t> found(std::max<size_t>(n, 1));  // a shared feature reads the first
            if (query.match == Match::ANY) {
                std::fill(found.begin(), found.end(), (int64_t{1} << m) - 1);
            } else if (query.match == Match::ITEM) {
                bool may_match[256] = {};  // by the row's last bits: nearly all candidates end here
                for (int64_t row : visits.rows) may_match[row & 255] = true;
                for (size_t i = 0; i < n; i++) {
                    if (!may_match[rows[i] & 255]) continue;
                    for (size_t v = 0; v < m; v++) found[i] |= int64_t{visits.rows[v] == rows[i]} << v;
                }
            } else {
                for (size_t i = 0; i < n; i++) {
                    const int64_t* buckets = items.categories.row(static_cast<size_t>(rows[i]));
                    for (size_t b = 0; b < items.categories.width; b++) {
                        found[i] |= visits.by_bucket[static_cast<size_t>(buckets[b])];
                    }
                }
            }
            for (int64_t& bits : found) bits = bits >> older << older;
            return found;
        }

        // The column of an operand; one number is repeated `count` times in `repeated`.
        const double* column(const Operand& operand, size_t count, Doubles& repeated) const {
            const auto place = static_cast<size_t>(operand.place);
            const auto alike = [&](double value) {
                repeated.assign(count, value);
                return repeated.data();
            };
            switch (operand.space) {
                case Space::PLAIN: return alike(plain.at(place));
                case Space::NUMBERS: return alike(numbers.at(place));
                case Space::CATEGORY: return split[0].at(place).data();
                case Space::CREATOR: return split[1].at(place).data();
                case Space::ITEM: return split[2].at(place).data();
                case Space::TICKING: return ticking.at(place).data();
                case Space::CREATED: return created.data();
                case Space::QUERY: break;
            }
            throw std::invalid_argument("a query is not a column");
        }

        void evaluate(const Feature& f, size_t count, float* out) const {
            Inputs in{};
            Doubles repeated[4];
            in.p = f.numbers.data();
            in.now_ms = static_cast<double>(now_ms);
            if (f.kind == Kind::VISIT_COUNT || f.kind == Kind::VISIT_RECENCY) {
                const auto query = static_cast<size_t>(f.operands.at(0).place);
                in.visits = masks.at(query).data();
                in.times = visited[program.queries_[query].history].times.data();
                in.whole = 1;
                if (f.operands.size() > 1) {
                    in.whole = std::max(bits(masks.at(static_cast<size_t>(f.operands[1].place))[0]), 1.0);
                }
            } else {
                check(f.operands.size() <= 4, "at most four operands");
                for (size_t k = 0; k < f.operands.size(); k++) in.x[k] = column(f.operands[k], count, repeated[k]);
                in.parts = !f.operands.empty() && f.operands[0].space == Space::CATEGORY ? counts.data() : ones.data();
            }
            recsys::evaluate(f.kind, in, count, out);
        }

        void fill(float* matrix) const {
            const size_t d = program.dimension_, pairs = program.paired_.size();
            std::vector<float> line(d), columns(pairs * n);
            for (const Feature& f : program.shared_) evaluate(f, 1, line.data() + f.column);
            for (size_t k = 0; k < pairs; k++) evaluate(program.paired_[k], n, columns.data() + k * n);
            for (size_t i = 0; i < n; i++) {
                float* to = matrix + i * d;
                std::memcpy(to, line.data(), d * sizeof(float));
                const float* from = items.steady.row(i);
                for (const Run& run : program.steady_) std::copy_n(from + run.here, run.length, to + run.there);
                for (size_t k = 0; k < pairs; k++) to[program.paired_[k].column] = columns[k * n + i];
            }
        }
    };

    void check_feature(const Feature& f) const {
        static constexpr std::pair<size_t, size_t> SIZES[] = {{1, 1}, {2, 4}, {2, 2}, {2, 1}, {4, 5}, {1, 0},
                                                              {1, 1}, {1, 1}, {1, 1}, {1, 0}, {0, 0}, {0, 0}};
        const auto [operands, numbers] = SIZES[static_cast<size_t>(f.kind)];
        check(f.column >= 0 && f.column < signed_dimension(), "a column outside");
        check(f.operands.size() >= operands && f.numbers.size() == numbers, "operands and numbers of its kind");
    }

    int64_t signed_dimension() const { return static_cast<int64_t>(dimension_); }

    size_t dimension_;
    UserTotals totals_;
    int64_t plain_;
    std::vector<Table> tables_;  // of categories, creators, items
    std::vector<HistoryQuery> queries_;
    std::vector<Feature> shared_, paired_;
    std::vector<Run> steady_;
    size_t steady_width_ = 0;
    CategoryBuckets buckets_;
    std::vector<int64_t> sums_, touched_;  // reused: a request leaves zeros. Python's lock guards them.
};

}  // namespace recsys
