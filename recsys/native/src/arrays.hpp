// Views of numpy arrays with checked type and shape. The caller keeps the arrays alive.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace recsys {

namespace py = pybind11;

// Exactly this type, in C order: never a converted copy.
template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
struct View {
    const T* data = nullptr;
    size_t rows = 0, width = 1;

    View() = default;
    View(const Array<T>& array, const char* name, int dimensions) {
        if (array.ndim() != dimensions) {
            throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(dimensions) +
                                        " dimensions, got " + std::to_string(array.ndim()));
        }
        data = array.data();
        rows = static_cast<size_t>(array.shape(0));
        width = dimensions == 2 ? static_cast<size_t>(array.shape(1)) : 1;
    }
    const T* row(size_t i) const { return data + i * width; }
    T operator[](size_t i) const { return data[i]; }
};

template <typename T>
View<T> view(const Array<T>& array, const char* name, int dimensions = 1) {
    return View<T>(array, name, dimensions);
}

inline void check(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace recsys
