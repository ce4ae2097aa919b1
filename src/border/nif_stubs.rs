//! Stand-ins for the functions of the Erlang VM, so that the unit tests link without one. None of them is called.

macro_rules! absent {
    ($($name:ident)*) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name() {
            eprintln!("{} was called, but unit tests run without the Erlang VM", stringify!($name));
            std::process::abort();
        }
    )* };
}

absent! {
    enif_alloc_env enif_alloc_resource enif_binary_to_term enif_free_env enif_get_atom enif_get_atom_length
    enif_get_double enif_get_int enif_get_list_cell enif_get_list_length enif_get_long enif_get_map_value
    enif_get_resource enif_get_tuple enif_get_uint enif_get_ulong enif_init_resource_type enif_inspect_binary
    enif_is_atom enif_is_empty_list enif_is_exception enif_is_identical enif_is_list enif_is_map enif_keep_resource
    enif_make_atom_len enif_make_badarg enif_make_copy enif_make_double enif_make_int enif_make_list_from_array
    enif_make_long enif_make_map_from_arrays enif_make_map_put enif_make_new_binary enif_make_new_map
    enif_make_resource enif_make_tuple_from_array enif_make_uint enif_make_ulong enif_map_iterator_create
    enif_map_iterator_destroy enif_map_iterator_get_pair enif_map_iterator_next enif_map_iterator_prev
    enif_monitor_process enif_raise_exception enif_release_binary enif_release_resource enif_schedule_nif
    enif_clear_env enif_whereis_pid enif_get_local_pid enif_make_pid enif_is_pid enif_compare enif_get_int64
    enif_select enif_self enif_send enif_snprintf enif_term_to_binary enif_term_type enif_thread_type enif_get_uint64
    enif_consume_timeslice enif_get_map_size
}
