%% @doc The contexts of the application, each with a keeper that is a child under its number.
%%
%% What they were started with stands in the table, so that this supervisor, should it ever have to start again, starts
%% them again.
%% @private
-module(py_context_sup).
-behaviour(supervisor).

-export([start_link/0, start_context/3, ensure/1, forget/2]).
-export([init/1]).

%% More than a native thread needs to report its end after its connections were drained.
-define(SHUTDOWN_MARGIN_MS, 5000).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% Starts a supervised context. It comes back by itself after a crash, with the same options.
-spec start_context(py_options:id(), py_options:mode(), py_options:options()) -> {ok, pid()} | {error, term()}.
start_context(Id, Mode, Options) ->
    case py_reactor_on_demand:ensure_started() of
        ok ->
            case py_options:validate(Id, Mode, Options) of
                {ok, Complete} -> start_child(Id, {Mode, Complete});
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

-spec start_child(py_options:id(), {py_options:mode(), py_options:complete()}) -> {ok, pid()} | {error, term()}.
start_child(Id, Arguments) ->
    case supervisor:start_child(?MODULE, child({Id, Arguments})) of
        {ok, Keeper} when is_pid(Keeper) ->
            case py_context_keeper:context(Keeper) of
                {ok, Context} -> {ok, Context};
                _FailedAgain -> {error, {restarting, Id}}
            end;
        {error, already_present} ->
            %% It was stopped, and this call was faster than the one that stopped it.
            _ = supervisor:delete_child(?MODULE, Id),
            start_child(Id, Arguments);
        {error, {already_started, Keeper}} when is_pid(Keeper) ->
            case py_context_keeper:context(Keeper) of
                {ok, Context} -> {error, {already_started, Context}};
                restarting -> {error, {restarting, Id}};
                ended -> start_child(Id, Arguments)
            end;
        {error, {already_started, _Restarting}} ->
            {error, {restarting, Id}};
        {error, {{shutdown, Reason}, _Child}} ->
            {error, Reason};
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

%% Lets go of a context that was stopped on purpose, or that waits to be started again. It may have a supervisor of its
%% own, or run again.
-spec forget(py_options:id(), Stopped :: pid() | none) -> ok | {error, not_found}.
forget(Id, Stopped) ->
    try [Keeper || {Child, Keeper, _, _} <- supervisor:which_children(?MODULE), Child =:= Id] of
        [Keeper] when is_pid(Keeper) ->
            case py_context_keeper:forget(Keeper, Stopped) of
                running -> {error, not_found};
                _Ended -> delete(Id, Keeper)
            end;
        [undefined] ->
            %% It has ended by itself when its context was stopped.
            delete(Id);
        _NotOurs ->
            {error, not_found}
    catch
        exit:{noproc, _} -> {error, not_found}
    end.

-spec delete(py_options:id(), pid()) -> ok.
delete(Id, Keeper) ->
    ok = py_context_server:await_end(Keeper),
    delete(Id).

-spec delete(py_options:id()) -> ok.
delete(Id) ->
    %% An error if it runs again.
    _ = supervisor:delete_child(?MODULE, Id),
    ok.

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Flags = #{strategy => one_for_one, intensity => 10, period => 60},
    {ok, {Flags, [child(Spec) || Spec <- py_reactor_table:specs(context)]}}.

%% `transient': a keeper whose context was stopped ends, too.
-spec child({py_options:id(), {py_options:mode(), py_options:complete()}}) -> supervisor:child_spec().
child({Id, {Mode, #{drain_ms := DrainMs} = Options}}) ->
    #{
        id => Id,
        start => {py_context_keeper, start_link, [Id, Mode, Options]},
        restart => transient,
        shutdown => DrainMs + ?SHUTDOWN_MARGIN_MS
    }.
