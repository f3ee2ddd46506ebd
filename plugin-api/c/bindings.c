/*
 * The bindings of the component's world. What they would free piece by piece after a call,
 * component.c frees as a whole.
 */
#include <stdlib.h>
#include <string.h>

static void keep(void *memory)
{
    (void)memory;
}

#define free keep

#if defined(PACOS_GENERATOR)
#include "bindings/generator_plugin.c"
void __component_type_object_force_link_generator_plugin(void) {}
#elif defined(PACOS_FILTER)
#include "bindings/filter_plugin.c"
void __component_type_object_force_link_filter_plugin(void) {}
#elif defined(PACOS_EVALUATOR)
#include "bindings/evaluator_plugin.c"
void __component_type_object_force_link_evaluator_plugin(void) {}
#else
#error "expected one of PACOS_GENERATOR, PACOS_FILTER and PACOS_EVALUATOR"
#endif
