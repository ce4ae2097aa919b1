%% @doc The application: loads the native library, starts the supervisors, and ends everything in the right order.
%% @private
-module(py_reactor_app).
-behaviour(application).

-export([start/2, prep_stop/1, stop/1]).

%% How long the functions of `atexit' may take in the main interpreter, before they are interrupted.
-define(PAUSE_MS, 5000).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Arguments) ->
    case code:ensure_loaded(py_nif) of
        {module, py_nif} ->
            case py_options:allow_subprocess() of
                {ok, Allowed} ->
                    ok = py_nif:allow_subprocess(Allowed),
                    ok = check_surroundings(os:getenv("VIRTUAL_ENV")),
                    start_supervisors();
                {error, _} = Error ->
                    Error
            end;
        {error, Reason} ->
            {error, {nif_not_loaded, Reason, <<"the native library could not be loaded; the log says why, and what to do">>}}
    end.

%% The shell that the VM was started from may be in any environment: one that does not fit is passed over.
-spec check_surroundings(false | string()) -> ok.
check_surroundings(Unset) when Unset =:= false; Unset =:= "" ->
    ok;
check_surroundings(Directory) ->
    case py_venv:check(Directory) of
        ok -> ok;
        {error, Why} -> logger:warning("VIRTUAL_ENV is passed over: ~ts ~ts", [Directory, Why])
    end.

-spec start_supervisors() -> {ok, pid()} | {error, term()}.
start_supervisors() ->
    case py_reactor_sup:start_link() of
        {ok, Pid} -> {ok, Pid};
        {error, _} = Error -> Error
    end.

%% A supervisor would end its children one after the other, each with its own time to drain. Here listeners close first,
%% so that nothing new comes in; then all contexts drain at the same time, those of other supervisors included.
-spec prep_stop(State) -> State.
prep_stop(State) ->
    ok = py_reactor_sup:stop_listeners(),
    Pids = [Pid || {_Id, Pid} <- py_reactor_table:pids()],
    ok = lists:foreach(fun(Pid) -> py_context_server:ask_to_stop(Pid, default) end, Pids),
    ok = lists:foreach(fun py_context_server:await_end/1, Pids),
    %% Contexts of mode `worker' leave an interpreter behind that ends with the process: without a word.
    case py_nif:pause_program(?PAUSE_MS) of
        true -> ok;
        false -> logger:warning("what Python code registered with atexit, or flushing its files, does not end")
    end,
    State.

-spec stop(term()) -> ok.
stop(_State) ->
    ok.
