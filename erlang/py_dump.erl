%% @doc What is known of a context, for a report of a fault: also of one whose thread never returns.
%% @private
-module(py_dump).

-export([dump/2]).
-export_type([dump/0, stack/0, task/0]).

-define(WAIT_MS, 500).
-define(CONNECTIONS_MAX, 256).

-type unknown() :: {unknown, Why :: term()}.
-type stack() :: #{thread := binary(), stack := [binary()]}.
-type task() :: #{task := binary(), stack := [binary()]}.
-type dump() :: #{
    context := py_options:id() | undefined,
    process := binary(),
    at := binary(),
    node := node(),
    versions := map(),
    mode := py_options:mode() | unknown(),
    options := map() | unknown(),
    stats := py_reactor_context:stats() | unknown(),
    queued := non_neg_integer(),
    runs := boolean(),
    stacks := [stack()] | unknown(),
    tasks := [task()] | unknown(),
    connections := [map()] | unknown(),
    connections_left_out => pos_integer()
}.

-spec dump(py_reactor_context:context() | term(), Versions :: map()) -> dump() | {error, term()}.
dump(Context, Versions) ->
    case py_context_lookup:resolve(Context) of
        {ok, Pid, Ctx} -> (dump_of(Pid, Ctx))#{versions => Versions};
        {error, _} = Error -> Error
    end.

-spec dump_of(pid(), py_nif:ctx()) -> map().
dump_of(Pid, Ctx) ->
    {Queued, Runs} = py_nif:context_load(Ctx),
    Whole = lists:foldl(fun maps:merge/2, settings(Pid), [connections(Pid, Ctx), stacks(Pid, Ctx)]),
    Whole#{
        context => id(Pid),
        process => list_to_binary(pid_to_list(Pid)),
        at => list_to_binary(calendar:system_time_to_rfc3339(erlang:system_time(second))),
        node => node(),
        stats => py_nif:stats(Ctx),
        queued => Queued,
        runs => Runs
    }.

-spec id(pid()) -> py_options:id() | undefined.
id(Pid) ->
    case py_reactor_table:id(Pid) of
        {ok, Id} -> Id;
        error -> undefined
    end.

-spec settings(pid()) -> map().
settings(Pid) ->
    case py_context_server:settings(Pid, ?WAIT_MS) of
        {ok, {Mode, Options}} -> #{mode => Mode, options => maps:map(fun without_secrets/2, Options)};
        error -> #{mode => {unknown, timeout}, options => {unknown, timeout}}
    end.

-spec without_secrets(atom(), term()) -> term().
without_secrets(setup_code, Code) -> {bytes, byte_size(Code)};
without_secrets(env, Variables) -> [{Name, left_out} || {Name, _Value} <- Variables];
without_secrets(_Key, Value) -> Value.

-spec stacks(pid(), py_nif:ctx()) -> map().
stacks(Pid, Ctx) ->
    %% Another thread answers, so that a context which waits for the caller is no hindrance.
    case py_request:run_anyway(Pid, fun(Ref) -> py_nif:context_stacks(Ctx, Ref) end, ?WAIT_MS) of
        {ok, {Threads, Tasks}} ->
            #{
                stacks => [#{thread => Thread, stack => lines(Stack)} || {Thread, Stack} <- Threads],
                tasks => [#{task => Task, stack => lines(Stack)} || {Task, Stack} <- Tasks]
            };
        {error, timeout} ->
            Why = <<"Python's lock was not to be had: code that is not Python's keeps it, or the machine is overloaded">>,
            #{stacks => {unknown, Why}, tasks => {unknown, Why}};
        {error, Why} ->
            #{stacks => {unknown, Why}, tasks => {unknown, Why}}
    end.

-spec lines(binary()) -> [binary()].
lines(Text) ->
    binary:split(Text, <<"\n">>, [global, trim_all]).

-spec connections(pid(), py_nif:ctx()) -> map().
connections(Pid, Ctx) ->
    case py_request:run_within(Pid, fun(Ref) -> py_nif:connection_list(Ctx, Ref, true) end, ?WAIT_MS) of
        {ok, Connections} when length(Connections) > ?CONNECTIONS_MAX ->
            {First, Others} = lists:split(?CONNECTIONS_MAX, Connections),
            #{connections => without_clients(First), connections_left_out => length(Others)};
        {ok, Connections} ->
            #{connections => without_clients(Connections)};
        {error, timeout} ->
            #{connections => {unknown, <<"the context's thread is busy: see stacks">>}};
        {error, Why} ->
            #{connections => {unknown, Why}}
    end.

-spec without_clients([map()]) -> [map()].
without_clients(Connections) ->
    [maps:remove(client_info, Connection) || Connection <- Connections].
