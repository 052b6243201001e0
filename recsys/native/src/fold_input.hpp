// What a batch fold reads from Python: its rules, and the events.
#pragma once
#include <pybind11/stl.h>

#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "arrays.hpp"
#include "cells.hpp"
#include "fold.hpp"
#include "visits.hpp"

namespace recsys {

using RuleSpec = std::tuple<bool, uint64_t, char, int, int, int64_t, std::optional<double>, double, bool>;
using OnceSpec = std::tuple<std::string, int64_t, std::vector<RuleSpec>>;
using PlanSpec =
    std::tuple<std::string, std::vector<RuleSpec>, std::vector<OnceSpec>, std::vector<std::pair<std::string, int64_t>>>;

inline std::vector<Rule> rules_of(const std::vector<RuleSpec>& specs) {
    std::vector<Rule> made;
    for (const auto& [of_user, number, op, measure, split, hop_ms, least, scale, attributed] : specs) {
        check(measure >= 0 && measure <= static_cast<int>(Measure::LOG2), "no such measure");
        check(split >= 0 && split <= static_cast<int>(Split::ITEM), "no such split");
        made.push_back({of_user, number, op, static_cast<Measure>(measure), static_cast<Split>(split), hop_ms, least,
                        scale, attributed});
    }
    return made;
}

inline std::string_view utf8_of(PyObject* text) {
    Py_ssize_t length = 0;
    const char* found = PyUnicode_AsUTF8AndSize(text, &length);  // lives as long as the text
    if (!found) throw py::error_already_set();
    return {found, static_cast<size_t>(length)};
}

// `BatchFold` for the rows of `recsys.store.encoding.KeyedEvent`.
class PythonFold {
  public:
    PythonFold(const std::vector<PlanSpec>& specs, int64_t bucket_ms, int64_t buckets, size_t categories,
               const std::vector<int64_t>& looks_at, const std::vector<double>& log2_steps)
        : fold_(plans_of(specs), {bucket_ms, buckets, categories, log2_steps, looks_at}) {
        check(bucket_ms > 0 && buckets > 0, "buckets must have a size");
        check(!looks_at.empty(), "no position has a weight");
        check(!log2_steps.empty() && log2_steps.front() == 1.0, "steps of an octave begin with 1");
        for (const Plan& plan : fold_.plans()) numbers_.emplace(plan.type, numbers_.size());
    }

    // The packed ids, visits, users, items and what counts once; then both binary arguments.
    py::tuple fold(const py::list& rows) const {
        std::vector<FoldedInput> events;
        events.reserve(rows.size());
        for (py::handle row : rows) events.push_back(read(row));
        FoldedBatch made;
        {
            py::gil_scoped_release released;
            made = fold_.fold(events);
        }
        return py::make_tuple(py::bytes(made.ids.bytes()), py::bytes(made.visits.bytes()),
                              py::bytes(made.users.bytes()), py::bytes(made.items.bytes()),
                              py::bytes(made.once.bytes()), py::bytes(made.keys), py::bytes(made.fields));
    }

  private:
    static std::vector<Plan> plans_of(const std::vector<PlanSpec>& specs) {
        std::vector<Plan> made;
        for (const auto& [type, rules, once, histories] : specs) {
            Plan& plan = made.emplace_back(Plan{type, rules_of(rules), {}, {}});
            for (const auto& [signal, period_ms, cells] : once) {
                check(period_ms > 0 && !cells.empty(), "what counts once needs a period and cells");
                plan.once.push_back({signal, period_ms, rules_of(cells)});
            }
            for (const auto& [name, size] : histories) plan.histories.push_back({name, size});
        }
        return made;
    }

    // The views are of objects that the row's event keeps alive.
    FoldedInput read(py::handle row) const {
        const py::tuple fields = py::reinterpret_borrow<py::tuple>(row);
        const py::object key = fields[1];
        const py::object event = fields[2];
        const auto get = [&](const char* name) { return py::object(event.attr(name)); };
        FoldedInput made{};
        const auto plan = numbers_.find(std::string(utf8_of(get("type").ptr())));
        check(plan != numbers_.end(), "an event of a type without a plan");
        made.plan = plan->second;
        made.key = text_of(key.ptr());
        made.event_id = utf8_of(get("event_id").ptr());
        made.user = utf8_of(get("user_id").ptr());
        made.item = utf8_of(get("item_id").ptr());
        made.time_ms = integer(get("event_time_ms").ptr());
        check(made.time_ms >= 0, "an event before 1970");
        if (const py::object position = get("position"); !position.is_none()) made.position = integer(position.ptr());
        check(made.position >= 0, "a position before the first");
        made.named = !get("request_id").is_none();
        if (const py::object value = get("value"); !value.is_none()) {
            made.value = value.cast<double>();
            check(std::isfinite(*made.value), "the value of an event is not finite");
        }
        const py::dict context = get("context");
        if (context.contains("categories")) made.categories = utf8_of(context["categories"].ptr());
        if (context.contains("creator")) made.creator = utf8_of(context["creator"].ptr());
        return made;
    }

    BatchFold fold_;
    std::unordered_map<std::string, size_t> numbers_;  // of the plan, by event type
};

}  // namespace recsys
