// A user's histories as inputs of the models and as rows: the counterpart of `recsys.models.encoding.encode_visits` and
// of `recsys.pipeline.hydrators.HistoryHydrator`.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "arrays.hpp"
#include "visits.hpp"

namespace recsys {

struct Histories {
    std::vector<int64_t> items, types, gaps;  // (length,), newest last, left-padded with 0
    std::vector<int32_t> recent;              // rows of engaged items, newest first, no repeats
    std::vector<int32_t> hidden;              // rows of seen and disliked items, sorted, no repeats
};

// 1 + floor(log2(1 + whole seconds between)), at most 31.
inline int64_t gap_bucket(int64_t earlier_ms, int64_t later_ms) {
    const int64_t seconds = std::max<int64_t>(later_ms - earlier_ms, 0) / 1000;
    const int64_t bits = 64 - __builtin_clzll(static_cast<uint64_t>(seconds) + 1);
    return std::min<int64_t>(bits, 31);
}

class HistoryEncoder {
  public:
    // types: event type → its number. length: of the models' inputs.
    HistoryEncoder(const py::dict& types, size_t length) : length_(length) {
        for (auto [type, number] : types) types_.emplace_back(py::reinterpret_borrow<py::object>(type), integer(number.ptr()));
    }

    Histories encode(const py::list& engaged, const py::list& seen, const py::list& disliked, const py::dict& rows,
                     int64_t now_ms, int64_t trained) const {
        Histories made{{}, {}, {}, {}, {}};
        for (auto* line : {&made.items, &made.types, &made.gaps}) line->assign(length_, 0);
        size_t place = length_;
        int64_t following = now_ms;
        for (size_t i = engaged.size(); i-- > 0;) {
            PyObject* visit = PyList_GET_ITEM(engaged.ptr(), static_cast<Py_ssize_t>(i));
            const int64_t row = number_of(rows.ptr(), field_of(visit, 3), -1);
            if (row < 0) continue;
            if (std::find(made.recent.begin(), made.recent.end(), row) == made.recent.end()) {
                made.recent.push_back(static_cast<int32_t>(row));
            }
            if (row >= trained || place == 0) continue;  // the models do not know it
            const int64_t time = time_of(visit);
            place--;
            made.items[place] = row + 1;
            made.types[place] = type_number(field_of(visit, 2));
            made.gaps[place] = time > 0 && following > 0 ? gap_bucket(time, following) : 0;
            following = time;
        }
        for (const auto* visits : {&seen, &disliked}) {
            for (size_t i = 0; i < visits->size(); i++) {
                PyObject* visit = PyList_GET_ITEM(visits->ptr(), static_cast<Py_ssize_t>(i));
                const int64_t row = number_of(rows.ptr(), field_of(visit, 3), -1);
                if (row >= 0) made.hidden.push_back(static_cast<int32_t>(row));
            }
        }
        std::sort(made.hidden.begin(), made.hidden.end());
        made.hidden.erase(std::unique(made.hidden.begin(), made.hidden.end()), made.hidden.end());
        return made;
    }

    size_t length() const { return length_; }

  private:
    int64_t type_number(PyObject* type) const {  // members of an enumeration are one object each
        for (const auto& [known, number] : types_) {
            if (known.ptr() == type) return number;
        }
        throw py::key_error("a visit of an unknown type");
    }

    std::vector<std::pair<py::object, int64_t>> types_;
    size_t length_;
};

}  // namespace recsys
