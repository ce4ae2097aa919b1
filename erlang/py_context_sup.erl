%% @doc The contexts of the application, each a child under its own number.
%%
%% What they were started with stands in the table, so that this supervisor, should it ever have to start again, starts
%% them again.
%% @private
-module(py_context_sup).
-behaviour(supervisor).

-export([start_link/0, start_context/3, ensure/1, forget/1]).
-export([init/1]).

%% More than a native thread needs to report its end after its connections were drained.
-define(SHUTDOWN_MARGIN_MS, 5000).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% Starts a supervised context. It comes back by itself after a crash, with the same options.
-spec start_context(py_options:id(), py_options:mode(), py_options:options()) -> {ok, pid()} | {error, term()}.
start_context(Id, Mode, Options) ->
    case py_reactor_app:ensure_started() of
        ok ->
            case py_options:validate(Options) of
                {ok, Complete} -> start_child(Id, {Mode, Complete});
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec start_child(py_options:id(), {py_options:mode(), py_options:complete()}) -> {ok, pid()} | {error, term()}.
start_child(Id, Arguments) ->
    case supervisor:start_child(?MODULE, child({Id, Arguments})) of
        {ok, Pid} when is_pid(Pid) ->
            ok = py_reactor_table:put_spec({context, Id}, Arguments),
            {ok, Pid};
        {error, already_present} ->
            %% It was stopped, and this call was faster than the one that stopped it.
            _ = supervisor:delete_child(?MODULE, Id),
            start_child(Id, Arguments);
        {error, {already_started, Pid}} when is_pid(Pid) ->
            {error, {already_started, Pid}};
        {error, {already_started, _Restarting}} ->
            {error, {restarting, Id}};
        {error, {Reason, _Child}} ->
            {error, Reason}
    end.

%% The context of that number, whoever supervises it; if there is none, a supervised one with default options.
-spec ensure(py_options:id()) -> {ok, pid()} | {error, term()}.
ensure(Id) ->
    case py_reactor_table:pid(Id) of
        {ok, Pid} ->
            {ok, Pid};
        error ->
            case start_context(Id, worker, #{}) of
                {error, {already_started, Pid}} -> {ok, Pid};
                Result -> Result
            end
    end.

%% Drops what is known of a context that was stopped on purpose. It may have a supervisor of its own, or run again.
-spec forget(py_options:id()) -> ok.
forget(Id) ->
    try supervisor:delete_child(?MODULE, Id) of
        ok -> py_reactor_table:delete_spec({context, Id});
        {error, _RunsAgainOrNotOurs} -> ok
    catch
        exit:{noproc, _} -> ok
    end.

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Specs = py_reactor_table:specs(context),
    %% Children of a killed predecessor know that it died, and drain before they give their numbers back.
    Orphans = [Pid || {Id, _} <- Specs, {ok, Pid} <- [py_reactor_table:pid(Id)]],
    ok = lists:foreach(fun py_context_server:await_end/1, Orphans),
    Flags = #{strategy => one_for_one, intensity => 10, period => 60},
    {ok, {Flags, [child(Spec) || Spec <- Specs]}}.

%% `transient': only `py_reactor_context:stop' ends a context normally, and then it is to stay away.
-spec child({py_options:id(), {py_options:mode(), py_options:complete()}}) -> supervisor:child_spec().
child({Id, {Mode, #{drain_ms := DrainMs} = Options}}) ->
    #{
        id => Id,
        start => {py_reactor_context, start_link, [Id, Mode, Options]},
        restart => transient,
        shutdown => DrainMs + ?SHUTDOWN_MARGIN_MS
    }.
