// A user's visits as numbers: from the tuples (`recsys.contracts.state.Visit`) that the store returns.
#pragma once
#include <cstdint>
#include <vector>

#include "arrays.hpp"

namespace recsys {

constexpr size_t MAX_VISITS = 52;  // a set of visits is a mask of bits

inline PyObject* field_of(PyObject* visit, Py_ssize_t place) {
    if (!PyTuple_Check(visit) || PyTuple_GET_SIZE(visit) < 5) throw py::type_error("not a visit");
    return PyTuple_GET_ITEM(visit, place);
}

inline int64_t integer(PyObject* number) {
    int64_t value = PyLong_AsLongLong(number);
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
}

inline int64_t time_of(PyObject* visit) { return integer(field_of(visit, 0)); }

// The number that `table` (a dict) has for a key; `missing` if it has none.
inline int64_t number_of(PyObject* table, PyObject* key, int64_t missing) {
    PyObject* found = PyDict_GetItemWithError(table, key);  // borrowed
    if (!found) {
        if (PyErr_Occurred()) throw py::error_already_set();
        return missing;
    }
    return integer(found);
}

// Categories → the distinct buckets of the first of them. Python says which; what it said is remembered.
class CategoryBuckets {
  public:
    explicit CategoryBuckets(py::function of) : of_(std::move(of)) {}

    template <typename Each>
    void each(PyObject* categories, Each&& use) {
        if (PyTuple_Check(categories) && PyTuple_GET_SIZE(categories) == 0) return;
        py::tuple buckets = find(categories);
        for (py::handle bucket : buckets) use(integer(bucket.ptr()));
    }

  private:
    py::tuple find(PyObject* categories) {
        PyObject* found = PyDict_GetItemWithError(known_.ptr(), categories);
        if (found) return py::reinterpret_borrow<py::tuple>(found);
        if (PyErr_Occurred()) throw py::error_already_set();
        py::tuple made = of_(py::handle(categories));
        if (known_.size() >= LIMIT) known_.clear();
        known_[py::handle(categories)] = made;
        return made;
    }

    static constexpr size_t LIMIT = 1 << 16;
    py::function of_;
    py::dict known_;
};

}  // namespace recsys
