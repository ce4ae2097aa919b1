%% @doc Whom a pid or a number means: the process of a context, and its native half.
%% @private
-module(py_context_lookup).

-export([pid/1, resolve/1, absent/1]).

-type absent() :: {no_context, term()} | {remote_context, node(), binary()}.
-type unresolved() :: absent() | {would_deadlock, binary()} | stopped.

-spec pid(py_reactor_context:context() | term()) -> {ok, pid()} | {error, absent()}.
pid(Pid) when is_pid(Pid), node(Pid) =:= node() ->
    {ok, Pid};
pid(Id) when is_integer(Id) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} -> {ok, Pid};
        error -> {error, {no_context, Id}}
    end;
pid(Other) ->
    {error, absent(Other)}.

%% Why there is no such context on this node.
-spec absent(term()) -> absent().
absent(Pid) when is_pid(Pid), node(Pid) =/= node() ->
    Why =
        <<"of contexts on other nodes connections/1, send/3, notify/3, close/2 and monitor_connection/2 take care; ask for the "
          "rest there, with erpc:call/4">>,
    {remote_context, node(Pid), Why};
absent(Other) ->
    {no_context, Other}.

%% Both. Waits for one that is just starting.
-spec resolve(py_reactor_context:context() | term()) -> {ok, pid(), py_nif:ctx()} | {error, unresolved()}.
resolve(Context) ->
    case pid(Context) of
        {ok, Pid} ->
            case is_process_alive(Pid) of
                true -> resolve(Context, Pid, py_reactor_table:ctx(Pid));
                false -> {error, stopped}
            end;
        {error, _} = Error ->
            Error
    end.

-spec resolve(py_reactor_context:context(), pid(), {ok, py_nif:ctx()} | starting | error) ->
    {ok, pid(), py_nif:ctx()} | {error, unresolved()}.
resolve(_Context, Pid, {ok, Ctx}) ->
    {ok, Pid, Ctx};
resolve(Context, Pid, starting) ->
    %% One whose set-up code waits for the caller would never be ready.
    case py_request:refused(Pid) of
        ok ->
            case py_context_server:await(Pid) of
                {ok, Ctx} -> {ok, Pid, Ctx};
                error -> {error, {no_context, Context}}
            end;
        {error, _} = Error ->
            Error
    end;
resolve(Context, _Pid, error) ->
    {error, {no_context, Context}}.
