%% @doc A watch over one connection for one process.
%%
%% A process of the caller's node stands between the two: it knows of the caller's end, and of the context's however
%% that comes. A context of another node is watched by a process there, which this one watches.
%% @private
-module(py_connection_monitor).

-export([start/3, stop/1]).
-export([init/5, watch_for/4]).
-export_type([monitor/0]).

-opaque monitor() :: {pid(), reference()}.

-type source() ::
    {local, py_nif:ctx(), py_reactor_context:connection(), Ref :: reference(), ContextMonitor :: reference()}
    | {remote, WatcherMonitor :: reference()}.
-type reason() :: py_reactor_context:end_reason().

-spec start(py_reactor_context:context(), py_reactor_context:connection(), non_neg_integer()) -> monitor().
start(Context, Connection, Fd) ->
    Tag = make_ref(),
    {Pid, Down} = spawn_monitor(?MODULE, init, [Tag, self(), Context, Connection, Fd]),
    %% What happens to the connection from here on is told with its reason.
    receive
        {Tag, watching} -> demonitor(Down, [flush]);
        {'DOWN', Down, process, Pid, _Reason} -> true
    end,
    {Pid, Tag}.

-spec stop(monitor()) -> ok.
stop({Pid, Tag} = Monitor) ->
    Down = monitor(process, Pid),
    Pid ! {stop, Tag},
    receive
        {'DOWN', Down, process, Pid, _Reason} -> ok
    end,
    receive
        {py_connection_down, Monitor, _Fd, _Why} -> ok
    after 0 -> ok
    end.

-spec init(
    reference(), pid(), py_reactor_context:context(), py_reactor_context:connection(), non_neg_integer()
) -> ok.
init(Tag, Caller, Context, Connection, Fd) ->
    CallerMonitor = monitor(process, Caller),
    case source(Context, Connection, Fd) of
        {ok, Source} ->
            Caller ! {Tag, watching},
            case await(Tag, CallerMonitor, Source) of
                {down, Reason} -> tell(Caller, Tag, Fd, Reason);
                stop -> unwatch(Source)
            end;
        {error, too_many_monitors} ->
            tell(Caller, Tag, Fd, too_many_monitors);
        {error, _NoContext} ->
            tell(Caller, Tag, Fd, noconnection)
    end.

-spec tell(pid(), reference(), non_neg_integer(), reason()) -> ok.
tell(Caller, Tag, Fd, Reason) ->
    Caller ! {py_connection_down, {self(), Tag}, Fd, Reason},
    ok.

-spec source(py_reactor_context:context(), py_reactor_context:connection(), non_neg_integer()) ->
    {ok, source()} | {error, term()}.
source(Context, Connection, Fd) when is_pid(Context), node(Context) =/= node() ->
    {Pid, Monitor} = spawn_monitor(node(Context), ?MODULE, watch_for, [self(), Context, Connection, Fd]),
    Pid ! {watch, Monitor},
    watched({remote, Monitor});
source(Context, Connection, _Fd) ->
    case py_context_lookup:resolve(Context) of
        {ok, Pid, Ctx} ->
            Monitor = monitor(process, Pid),
            Ref = make_ref(),
            case py_nif:connection_ask(Ctx, Ref, Connection, watch) of
                ok -> watched({local, Ctx, Connection, Ref, Monitor});
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% Waits until the thread has looked.
-spec watched(source()) -> {ok, source()} | {error, noconnection | too_many_monitors}.
watched({local, _Ctx, _Connection, Ref, ContextMonitor} = Source) ->
    receive
        {Ref, watching} -> {ok, Source};
        {Ref, {down, _Fd, Reason}} -> {error, Reason};
        {Ref, _Stopped} -> {error, noconnection};
        {'DOWN', ContextMonitor, process, _Context, _Why} -> {error, noconnection}
    end;
watched({remote, WatcherMonitor} = Source) ->
    receive
        {watching, WatcherMonitor} ->
            {ok, Source};
        {'DOWN', WatcherMonitor, process, _Watcher, _Why} = Down ->
            self() ! Down,
            {ok, Source}
    end.

-spec await(reference(), reference(), source()) -> {down, reason()} | stop.
await(Tag, CallerMonitor, {local, _Ctx, _Connection, Ref, ContextMonitor}) ->
    receive
        {Ref, {down, _Fd, Reason}} -> {down, Reason};
        {'DOWN', ContextMonitor, process, _Context, _Why} -> {down, killed};
        {'DOWN', CallerMonitor, process, _Caller, _Why} -> stop;
        {stop, Tag} -> stop
    end;
await(Tag, CallerMonitor, {remote, WatcherMonitor}) ->
    receive
        {'DOWN', WatcherMonitor, process, _Watcher, {down, Reason}} -> {down, Reason};
        {'DOWN', WatcherMonitor, process, _Watcher, _Away} -> {down, unreachable};
        {'DOWN', CallerMonitor, process, _Caller, _Why} -> stop;
        {stop, Tag} -> stop
    end.

-spec unwatch(source()) -> ok.
unwatch({local, Ctx, Connection, _Ref, _Monitor}) ->
    %% A full queue leaves the watch with the connection, until that ends; a thread that has ended has none.
    _ = py_nif:connection_ask(Ctx, make_ref(), Connection, unwatch),
    ok;
unwatch({remote, _Monitor}) ->
    %% The watcher there sees this process end.
    ok.

%% On the context's node, for a process of another one.
-spec watch_for(pid(), pid(), py_reactor_context:connection(), non_neg_integer()) -> ok.
watch_for(Parent, Context, Connection, Fd) ->
    ParentMonitor = monitor(process, Parent),
    Monitor = start(Context, Connection, Fd),
    receive
        {watch, Ref} -> Parent ! {watching, Ref}
    end,
    receive
        {py_connection_down, Monitor, _Fd, Reason} -> exit({down, Reason});
        {'DOWN', ParentMonitor, process, Parent, _Why} -> ok
    end.
