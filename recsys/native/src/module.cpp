// `recsys.native._core`: what Python calls. Every call holds Python's lock; they take tens of microseconds.
#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include "arrays.hpp"
#include "features.hpp"

namespace recsys {

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

}  // namespace recsys

PYBIND11_MODULE(_core, m) {
    namespace py = pybind11;
    using namespace recsys;
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
}
