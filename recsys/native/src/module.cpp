// `recsys.native._core`: what Python calls. Calls hold Python's lock, since they take tens of microseconds; not those of
// models (models.cpp), which take hundreds.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <chrono>

#include "arrays.hpp"
#include "cells.hpp"
#include "features.hpp"
#include "fold_input.hpp"
#include "greedy.hpp"
#include "history.hpp"
#include "recall.hpp"

namespace recsys {

void bind_models(py::module_& m);  // models.cpp

using FeatureSpec = std::tuple<int, int64_t, std::vector<std::pair<int, int64_t>>, std::vector<double>>;
using TotalSpec = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, std::vector<int64_t>>;
using QuerySpec = std::tuple<size_t, int, size_t>;

std::vector<Feature> features_of(const std::vector<FeatureSpec>& specs) {
    std::vector<Feature> made;
    for (const auto& [kind, column, operands, numbers] : specs) {
        check(kind >= 0 && kind <= static_cast<int>(Kind::WEEKDAY), "no such kind");
        Feature feature{static_cast<Kind>(kind), column, {}, numbers};
        for (const auto& [space, place] : operands) feature.operands.push_back({static_cast<Space>(space), place});
        made.push_back(std::move(feature));
    }
    return made;
}

FeatureProgram program(size_t dimension, const std::vector<std::vector<TotalSpec>>& totals, int64_t size, int64_t plain,
                       const std::vector<std::pair<int64_t, int64_t>>& tables, const std::vector<QuerySpec>& queries,
                       const std::vector<FeatureSpec>& shared, const std::vector<FeatureSpec>& paired,
                       const std::vector<std::array<int64_t, 3>>& steady, py::function category_buckets) {
    std::vector<std::vector<TotalPlan>> plans;
    for (const auto& of_aggregate : totals) {
        auto& into = plans.emplace_back();
        for (const auto& [hop, tiles, largest, base, stride, weights] : of_aggregate) {
            into.push_back({hop, tiles, largest, base, stride, weights});
        }
    }
    std::vector<Table> splits;
    for (const auto& [base, members] : tables) splits.push_back({base, members});
    std::vector<Run> runs;
    for (const auto& [there, here, length] : steady) runs.push_back({there, here, length});
    std::vector<HistoryQuery> asked;
    for (const auto& [history, match, newest] : queries) asked.push_back({history, static_cast<Match>(match), newest});
    return FeatureProgram(dimension, UserTotals(std::move(plans), size), plain, std::move(splits), std::move(asked),
                          features_of(shared), features_of(paired), std::move(runs), std::move(category_buckets));
}

py::array_t<float> assemble(FeatureProgram& self, Array<int64_t> codes, Array<int64_t> amounts,
                            const std::vector<py::list>& histories, const std::vector<double>& numbers,
                            const py::dict& rows_by_id, Array<int64_t> categories, Array<int64_t> creators,
                            Array<int64_t> ids, Array<int64_t> category_counts, Array<int64_t> created_ms,
                            Array<float> steady, const std::vector<Array<int64_t>>& ticking, Array<int32_t> rows,
                            int64_t now_ms) {
    Items items{view(categories, "categories", 2), view(creators, "creators", 2), view(ids, "ids"),
                view(category_counts, "category_counts"), view(created_ms, "created_ms"),
                view(steady, "steady", 2), {}};
    for (const auto& total : ticking) {
        items.ticking.push_back(view(total, "ticking"));
        check(total.shape(0) == rows.shape(0), "ticking totals of every row");
    }
    py::array_t<float> matrix({rows.shape(0), static_cast<py::ssize_t>(self.dimension())});
    self.assemble(view(codes, "codes"), view(amounts, "amounts"), histories, numbers, rows_by_id, items,
                  view(rows, "rows"), now_ms, matrix.mutable_data());
    return matrix;
}

template <typename T>
Array<T> array_of(const std::vector<T>& values, std::vector<py::ssize_t> shape) {
    Array<T> made(std::move(shape));
    std::copy(values.begin(), values.end(), made.mutable_data());
    return made;
}

// The channels of one request path, in order.
class Recall {
  public:
    enum class Kind : int { GIVEN, ITEM_TO_ITEM, POPULAR_IN_CATEGORIES, POPULAR, FRESH };
    struct Spec {
        Kind kind;
        size_t limit, recent, quota;
        float weight;
    };

    Recall(const std::vector<std::tuple<int, size_t, size_t, size_t, float>>& channels, size_t limit) : limit_(limit) {
        for (const auto& [kind, most, recent, quota, weight] : channels) {
            check(kind >= 0 && kind <= static_cast<int>(Kind::FRESH), "no such channel");
            specs_.push_back({static_cast<Kind>(kind), most, recent, quota, weight});
        }
    }

    // Returns (rows, ranks, score), the number of rows by channel, that of merged rows, the filters' counts, and the
    // milliseconds of each channel, of the merger and of the filters.
    py::tuple gather(const std::vector<Array<int32_t>>& given, Array<int32_t> recent, Array<int32_t> seen,
                     Array<int32_t> excluded, Array<bool> eligible, size_t n_hidden, Array<int32_t> neighbours,
                     Array<float> neighbour_scores, Array<float> recency, Array<int32_t> popular,
                     const py::dict& by_category, Array<int32_t> fresh_pool, int64_t turns,
                     Array<int32_t> main_category, Array<bool> alive) {
        const Hidden hidden(marks_, static_cast<size_t>(alive.size()), view(seen, "seen"), view(excluded, "excluded"),
                            view(eligible, "eligible"));
        std::vector<Channel> channels;
        std::vector<size_t> counts;
        std::vector<double> ms;
        auto next_given = given.begin();
        Timer timer;
        for (const Spec& spec : specs_) {
            Rows rows;
            switch (spec.kind) {
                case Kind::GIVEN: {
                    check(next_given != given.end(), "a channel is missing");
                    const auto found = view(*next_given++, "given");
                    for (size_t i = 0; i < found.rows; i++) hidden.check_row(found[i]);
                    rows.assign(found.data, found.data + found.rows);
                    break;
                }
                case Kind::ITEM_TO_ITEM:
                    rows = item_to_item(view(neighbours, "neighbours", 2), view(neighbour_scores, "scores", 2),
                                        view(recency, "recency"), view(recent, "recent"), spec.limit, hidden, table_);
                    break;
                case Kind::POPULAR_IN_CATEGORIES:
                    rows = popular_in_categories(by_category, view(main_category, "main_category"),
                                                 view(recent, "recent"), spec.recent, spec.limit, n_hidden, hidden);
                    break;
                case Kind::POPULAR:
                    rows = allowed(view(popular, "popular"), spec.limit, spec.limit + n_hidden, hidden);
                    break;
                case Kind::FRESH: rows = fresh(view(fresh_pool, "fresh"), spec.limit, turns, hidden); break;
            }
            ms.push_back(timer.lap());
            counts.push_back(rows.size());
            channels.push_back({std::move(rows), spec.quota, spec.weight});
        }
        Merged merged = merge(channels, limit_, hidden.n_rows(), table_);
        ms.push_back(timer.lap());
        const size_t n_merged = merged.rows.size();
        const Removed removed = filter(merged, channels.size(), view(alive, "alive"), hidden);
        ms.push_back(timer.lap());
        const auto n = static_cast<py::ssize_t>(merged.rows.size());
        const auto width = static_cast<py::ssize_t>(channels.size());
        return py::make_tuple(
            array_of(merged.rows, {n}), array_of(merged.ranks, {n, width}), array_of(merged.score, {n}), counts, n_merged,
            py::make_tuple(removed.seen, removed.excluded, removed.deleted,
                           array_of(removed.ineligible, {static_cast<py::ssize_t>(removed.ineligible.size())}),
                           removed.after_seen, removed.after_deleted, removed.after_eligible),
            ms);
    }

  private:
    struct Timer {
        std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
        double lap() {
            const auto now = std::chrono::steady_clock::now();
            const double ms = std::chrono::duration<double, std::milli>(now - began).count();
            began = now;
            return ms;
        }
    };

    std::vector<Spec> specs_;
    size_t limit_;
    std::vector<uint8_t> marks_;
    Found::Table table_;
};

std::vector<std::pair<int64_t, size_t>> greedy_list(Array<float> relevance, Array<float> vectors, double diversity,
                                                    const std::vector<std::pair<Array<int32_t>, int64_t>>& caps,
                                                    const std::vector<int64_t>& places,
                                                    const std::unordered_map<int64_t, size_t>& pins) {
    std::vector<Cap> made;
    for (const auto& [codes, most] : caps) {
        check(codes.size() == relevance.size(), "a code for each candidate");
        made.emplace_back(view(codes, "codes"), most);
    }
    return greedy(view(relevance, "relevance"), view(vectors, "vectors", 2), diversity, std::move(made), places, pins);
}

py::tuple cells(const py::list& flat, int64_t aggregates) {
    const Cells found = cells_of(flat, aggregates);
    const auto n = static_cast<py::ssize_t>(found.codes.size());
    return py::make_tuple(array_of(found.codes, {n}), array_of(found.amounts, {n}));
}

py::tuple encode(const HistoryEncoder& self, const py::list& engaged, const py::list& seen, const py::list& disliked,
                 const py::dict& rows, int64_t now_ms, int64_t trained) {
    const Histories made = self.encode(engaged, seen, disliked, rows, now_ms, trained);
    const auto length = static_cast<py::ssize_t>(self.length());
    const auto recent = static_cast<py::ssize_t>(made.recent.size());
    const auto hidden = static_cast<py::ssize_t>(made.hidden.size());
    return py::make_tuple(array_of(made.items, {length}), array_of(made.types, {length}),
                          array_of(made.gaps, {length}), array_of(made.recent, {recent}),
                          array_of(made.hidden, {hidden}));
}

}  // namespace recsys

PYBIND11_MODULE(_core, m) {
    namespace py = pybind11;
    using namespace recsys;
    m.attr("SOURCES") = SOURCES;  // of setup.py
    m.doc() = "The compiled part of the request path; `recsys.features.compile` and its neighbours call it.";
    py::class_<FeatureProgram>(m, "FeatureProgram")
        .def(py::init(&program), py::kw_only(), py::arg("dimension"), py::arg("totals"), py::arg("size"),
             py::arg("plain"), py::arg("tables"), py::arg("queries"), py::arg("shared"), py::arg("paired"),
             py::arg("steady"), py::arg("category_buckets"))
        .def("assemble", &assemble, py::kw_only(), py::arg("codes").noconvert(), py::arg("amounts").noconvert(),
             py::arg("histories"), py::arg("numbers"), py::arg("rows_by_id"), py::arg("categories").noconvert(),
             py::arg("creators").noconvert(), py::arg("ids").noconvert(), py::arg("category_counts").noconvert(),
             py::arg("created_ms").noconvert(), py::arg("steady").noconvert(), py::arg("ticking"),
             py::arg("rows").noconvert(), py::arg("now_ms"));
    py::class_<Recall>(m, "Recall")
        .def(py::init<const std::vector<std::tuple<int, size_t, size_t, size_t, float>>&, size_t>(), py::kw_only(),
             py::arg("channels"), py::arg("limit"))
        .def("gather", &Recall::gather, py::kw_only(), py::arg("given"), py::arg("recent").noconvert(),
             py::arg("seen").noconvert(), py::arg("excluded").noconvert(), py::arg("eligible").noconvert(),
             py::arg("hidden"), py::arg("neighbours").noconvert(), py::arg("neighbour_scores").noconvert(),
             py::arg("recency").noconvert(), py::arg("popular").noconvert(), py::arg("by_category"),
             py::arg("fresh_pool").noconvert(), py::arg("turns"), py::arg("main_category").noconvert(),
             py::arg("alive").noconvert());
    py::class_<HistoryEncoder>(m, "HistoryEncoder")
        .def(py::init<const py::dict&, size_t>(), py::kw_only(), py::arg("types"), py::arg("length"))
        .def("encode", &encode, py::kw_only(), py::arg("engaged"), py::arg("seen"), py::arg("disliked"),
             py::arg("rows"), py::arg("now_ms"), py::arg("trained"));
    m.def("greedy", &greedy_list, py::kw_only(), py::arg("relevance").noconvert(), py::arg("vectors").noconvert(),
          py::arg("diversity"), py::arg("caps"), py::arg("places"), py::arg("pins"));
    bind_models(m);
    py::class_<PythonFold>(m, "Fold")
        .def(py::init<const std::vector<PlanSpec>&, int64_t, int64_t, size_t, const std::vector<int64_t>&,
                      const std::vector<double>&>(),
             py::arg("plans"), py::arg("bucket_ms"), py::arg("buckets"), py::arg("categories"), py::arg("looks_at"),
             py::arg("log2_steps"))
        .def("fold", &PythonFold::fold, py::arg("rows"));
    m.def("cells", &cells, py::arg("flat"), py::arg("aggregates"));
}
