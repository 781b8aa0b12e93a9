// A call arrives as a dictionary: each field of `Forward` or `Backward` (call.hpp) by its name, a pointer as an address, `Rows` as
// (address, step, row). What is not given stays zero.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <type_traits>
#include <unordered_map>

#include "call.hpp"

namespace openlstm {

namespace nb = nanobind;

// The value of a field, from the object that Python gave. A wrong type leaves Python's error set, which `read` raises.
inline void read_value(PyObject* object, bool& to) { to = PyObject_IsTrue(object) == 1; }
inline void read_value(PyObject* object, int& to) { to = static_cast<int>(PyLong_AsLong(object)); }
inline void read_value(PyObject* object, index& to) { to = PyLong_AsSsize_t(object); }
inline void read_value(PyObject* object, uint64_t& to) { to = PyLong_AsUnsignedLongLong(object); }
inline void read_value(PyObject* object, double& to) { to = PyFloat_AsDouble(object); }
inline void read_value(PyObject* object, float& to) { to = static_cast<float>(PyFloat_AsDouble(object)); }
template <class T>
void read_value(PyObject* object, T*& to) {
  to = static_cast<T*>(PyLong_AsVoidPtr(object));
}
template <class T>
void read_value(PyObject* object, Rows<T>& to) {
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 3) {
    PyErr_SetString(PyExc_TypeError, "openlstm._native: rows are (address, step, row)");
    return;
  }
  read_value(PyTuple_GET_ITEM(object, 0), to.data);
  read_value(PyTuple_GET_ITEM(object, 1), to.step);
  read_value(PyTuple_GET_ITEM(object, 2), to.row);
}

// The fields of a struct by name.
template <class Call>
class Fields {
 public:
  using Read = void (*)(Call&, PyObject*);

  // Names are interned, so that nearly every look-up is one of an address.
  void add(const char* name, Read read) {
    PyObject* key = PyUnicode_InternFromString(name);
    by_address_.emplace(key, read);
    by_name_.emplace(name, read);
  }

  void read(nb::dict given, Call& call) const {
    PyObject *key, *value;
    Py_ssize_t position = 0;
    while (PyDict_Next(given.ptr(), &position, &key, &value)) find(key)(call, value);
    if (PyErr_Occurred()) throw nb::python_error();
  }

 private:
  Read find(PyObject* key) const {
    auto found = by_address_.find(key);
    if (found != by_address_.end()) return found->second;
    const char* name = PyUnicode_Check(key) ? PyUnicode_AsUTF8(key) : nullptr;
    auto other = by_name_.find(name ? name : "");
    if (other != by_name_.end()) return other->second;
    throw nb::type_error(("openlstm._native: a call has no field " + std::string(name ? name : "of such a name")).c_str());
  }

  std::unordered_map<PyObject*, Read> by_address_;
  std::unordered_map<std::string, Read> by_name_;
};

#define OPENLSTM_FIELD(name) fields.add(#name, [](auto& call, PyObject* value) { read_value(value, call.name); })
#define OPENLSTM_NOISE(name) fields.add(#name, [](auto& call, PyObject* value) { read_value(value, call.noise.name); })

template <class Call>
void add_problem_fields(Fields<Call>& fields) {
  OPENLSTM_FIELD(steps);
  OPENLSTM_FIELD(batch);
  OPENLSTM_FIELD(inputs);
  OPENLSTM_FIELD(hidden);
  OPENLSTM_FIELD(projected);
  OPENLSTM_FIELD(reverse);
  OPENLSTM_FIELD(first);
  OPENLSTM_FIELD(last);
  OPENLSTM_FIELD(w_ih);
  OPENLSTM_FIELD(w_hh);
  OPENLSTM_FIELD(b_ih);
  OPENLSTM_FIELD(b_hh);
  OPENLSTM_FIELD(w_hr);
  OPENLSTM_FIELD(w_ch);
  OPENLSTM_FIELD(norm);
  OPENLSTM_FIELD(x);
  OPENLSTM_FIELD(h0);
  OPENLSTM_FIELD(c0);
  OPENLSTM_FIELD(lengths);
  OPENLSTM_FIELD(reset);
  OPENLSTM_FIELD(reset_h);
  OPENLSTM_FIELD(reset_c);
  OPENLSTM_FIELD(threads);
  OPENLSTM_FIELD(clip);
  OPENLSTM_FIELD(hidden_mask);
  OPENLSTM_FIELD(feedback);
  OPENLSTM_FIELD(has_cell);
  OPENLSTM_FIELD(recurrent);
  OPENLSTM_FIELD(heads);
  OPENLSTM_FIELD(beta);
  OPENLSTM_NOISE(zoneout_h);
  OPENLSTM_NOISE(zoneout_c);
  OPENLSTM_NOISE(candidate);
  OPENLSTM_NOISE(seed);
  OPENLSTM_NOISE(stream);
  OPENLSTM_NOISE(first_row);
  OPENLSTM_NOISE(training);
}
template <class T, class X>
Fields<Forward<T, X>> fields_of(const Forward<T, X>*) {
  Fields<Forward<T, X>> fields;
  add_problem_fields(fields);
  OPENLSTM_FIELD(y);
  OPENLSTM_FIELD(gates);
  OPENLSTM_FIELD(c);
  OPENLSTM_FIELD(m);
  OPENLSTM_FIELD(h_n);
  OPENLSTM_FIELD(c_n);
  return fields;
}
template <class T, class X>
Fields<Backward<T, X>> fields_of(const Backward<T, X>*) {
  Fields<Backward<T, X>> fields;
  add_problem_fields(fields);
  OPENLSTM_FIELD(y);
  OPENLSTM_FIELD(gates);
  OPENLSTM_FIELD(c);
  OPENLSTM_FIELD(m);
  OPENLSTM_FIELD(dy);
  OPENLSTM_FIELD(dh_n);
  OPENLSTM_FIELD(dc_n);
  OPENLSTM_FIELD(dx);
  OPENLSTM_FIELD(dw_ih);
  OPENLSTM_FIELD(dw_hh);
  OPENLSTM_FIELD(db_ih);
  OPENLSTM_FIELD(db_hh);
  OPENLSTM_FIELD(dw_hr);
  OPENLSTM_FIELD(dw_ch);
  OPENLSTM_FIELD(dnorm);
  OPENLSTM_FIELD(go_on);
  OPENLSTM_FIELD(dh0);
  OPENLSTM_FIELD(dc0);
  OPENLSTM_FIELD(dreset_h);
  OPENLSTM_FIELD(dreset_c);
  OPENLSTM_FIELD(h_steps);
  OPENLSTM_FIELD(c_steps);
  return fields;
}

// A call as Python described it.
template <class Call>
Call read_call(nb::dict given) {
  static const Fields<Call> fields = fields_of(static_cast<const Call*>(nullptr));
  Call call{};
  fields.read(given, call);
  return call;
}

}  // namespace openlstm
