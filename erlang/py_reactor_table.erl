%% @doc The one table of the application: which contexts and listeners there are.
%%
%% `py_reactor_sup' owns it, so it outlives every process that is written down in it. It answers two questions without
%% asking anybody: which native context belongs to a process (so that a busy context can be observed and handed to),
%% and what the supervisors were told to run (so that one that starts again knows its children).
%%
%% A process that was killed leaves its row behind. Nobody trusts a row for more than a hint: {@link claim/1} replaces
%% the rows of the dead, and the native half answers `stopped' for a context without a thread.
%% @private
-module(py_reactor_table).

-export([new/0, exists/0]).
-export([claim/1, ready/2, release/0, pid/1, id/1, ctx/1, pids/0, tell_all/1]).
-export([begin_handoff/1, end_handoff/1]).
-export([put_listener/3, delete_listener/2, listener/1, listeners/0]).
-export([put_function/2, delete_function/1, function/1]).
-export([put_spec/2, delete_spec/1, spec/1, specs/1]).
-export_type([spec_key/0]).

-define(TABLE, ?MODULE).
-define(STARTING, undefined).

-type spec_key() :: {context | listener, Name :: term()}.

-spec new() -> ok.
new() ->
    ?TABLE = ets:new(?TABLE, [named_table, public, set, {read_concurrency, true}]),
    ok.

-spec exists() -> boolean().
exists() ->
    ets:whereis(?TABLE) =/= undefined.

%% Takes the number for the calling process, from a dead holder if need be.
-spec claim(py_options:id()) -> ok | {error, {already_started, pid()}}.
claim(Id) ->
    _ = [forget(Pid) || {Pid, _Ctx} <- context_rows(), not is_process_alive(Pid)],
    case ets:insert_new(?TABLE, {{id, Id}, self()}) of
        true ->
            true = ets:insert(?TABLE, {{pid, self()}, Id, ?STARTING}),
            ok;
        false ->
            claim_from(Id, lookup({id, Id}))
    end.

-spec claim_from(py_options:id(), [tuple()]) -> ok | {error, {already_started, pid()}}.
claim_from(Id, [{_, Pid} = Row]) ->
    case is_process_alive(Pid) of
        true ->
            {error, {already_started, Pid}};
        false ->
            %% It died before it could write its second row, or a moment ago.
            true = ets:delete_object(?TABLE, Row),
            claim(Id)
    end;
claim_from(Id, []) ->
    claim(Id).

%% The context serves. Listeners are told `{py_context_ready, Id}'.
-spec ready(py_options:id(), py_nif:ctx()) -> ok.
ready(Id, Ctx) ->
    true = ets:insert(?TABLE, {{pid, self()}, Id, Ctx}),
    %% After the row: a listener that starts meanwhile finds that, or is found here.
    lists:foreach(fun(Pid) -> Pid ! {py_context_ready, Id} end, listener_pids()).

%% Removes what the calling process claimed.
-spec release() -> ok.
release() ->
    forget(self()).

-spec forget(pid()) -> ok.
forget(Pid) ->
    unless_gone(fun() ->
        %% By the whole object: the number may have a new holder already.
        [ets:delete_object(?TABLE, {{id, Id}, Pid}) || {_, Id, _Ctx} <- ets:take(?TABLE, {pid, Pid})]
    end).

%% The living holder of a number.
-spec pid(py_options:id()) -> {ok, pid()} | error.
pid(Id) ->
    case lookup({id, Id}) of
        [{_, Pid}] ->
            case is_process_alive(Pid) of
                true -> {ok, Pid};
                false -> error
            end;
        [] ->
            error
    end.

-spec id(pid()) -> {ok, py_options:id()} | error.
id(Pid) ->
    case lookup({pid, Pid}) of
        [{_, Id, _Ctx}] -> {ok, Id};
        [] -> error
    end.

%% The native context of a process, alive or not.
-spec ctx(pid()) -> {ok, py_nif:ctx()} | starting | error.
ctx(Pid) ->
    case lookup({pid, Pid}) of
        [{_, _Id, ?STARTING}] -> starting;
        [{_, _Id, Ctx}] -> {ok, Ctx};
        [] -> error
    end.

%% The contexts that run, by number.
-spec pids() -> [{py_options:id(), pid()}].
pids() ->
    Rows = select([{{{pid, '$1'}, '$2', '_'}, [], [{{'$2', '$1'}}]}]),
    [Row || {_Id, Pid} = Row <- lists:sort(Rows), is_process_alive(Pid)].

%% One process at a time hands a socket over; one that died on the way is passed over.
-spec begin_handoff(port()) -> boolean().
begin_handoff(Port) ->
    try ets:insert_new(?TABLE, {{handoff, Port}, self()}) of
        true -> true;
        false -> begin_handoff_after(Port, lookup({handoff, Port}))
    catch
        error:badarg -> true
    end.

-spec begin_handoff_after(port(), [tuple()]) -> boolean().
begin_handoff_after(Port, [{_, Pid} = Row]) ->
    case is_process_alive(Pid) of
        true ->
            false;
        false ->
            true = ets:delete_object(?TABLE, Row),
            begin_handoff(Port)
    end;
begin_handoff_after(Port, []) ->
    begin_handoff(Port).

-spec end_handoff(port()) -> ok.
end_handoff(Port) ->
    unless_gone(fun() -> ets:delete(?TABLE, {handoff, Port}) end).

%% Sends to every context and every listener.
-spec tell_all(term()) -> ok.
tell_all(Message) ->
    lists:foreach(fun(Pid) -> Pid ! Message end, [Pid || {Pid, _Ctx} <- context_rows()] ++ listener_pids()).

-spec listener_pids() -> [pid()].
listener_pids() ->
    select([{{{listener, '_'}, '$1', '_'}, [], ['$1']}]).

-spec put_listener(term(), pid(), py_reactor:listener_info()) -> ok.
put_listener(Name, Pid, Info) ->
    true = ets:insert(?TABLE, {{listener, Name}, Pid, Info}),
    ok.

%% By the holder, too: the name may have a new one already.
-spec delete_listener(term(), pid()) -> ok.
delete_listener(Name, Pid) ->
    unless_gone(fun() -> ets:match_delete(?TABLE, {{listener, Name}, Pid, '_'}) end).

-spec listener(term()) -> {ok, py_reactor:listener_info()} | error.
listener(Name) ->
    maps:find(Name, listeners()).

-spec listeners() -> #{term() => py_reactor:listener_info()}.
listeners() ->
    Rows = select([{{{listener, '$1'}, '$2', '$3'}, [], [{{'$1', '$2', '$3'}}]}]),
    maps:from_list([{Name, Info} || {Name, Pid, Info} <- Rows, is_process_alive(Pid)]).

-spec put_function(binary(), py_functions:callable()) -> ok.
put_function(Name, Function) ->
    true = ets:insert(?TABLE, {{function, Name}, Function}),
    ok.

-spec delete_function(binary()) -> ok.
delete_function(Name) ->
    true = ets:delete(?TABLE, {function, Name}),
    ok.

-spec function(binary()) -> {ok, py_functions:callable()} | error.
function(Name) ->
    case lookup({function, Name}) of
        [{_, Function}] -> {ok, Function};
        [] -> error
    end.

-spec put_spec(spec_key(), term()) -> ok.
put_spec(Key, Arguments) ->
    true = ets:insert(?TABLE, {{spec, Key}, Arguments}),
    ok.

-spec delete_spec(spec_key()) -> ok.
delete_spec(Key) ->
    unless_gone(fun() -> ets:delete(?TABLE, {spec, Key}) end).

-spec spec(spec_key()) -> {ok, Arguments :: term()} | error.
spec(Key) ->
    case lookup({spec, Key}) of
        [{_, Arguments}] -> {ok, Arguments};
        [] -> error
    end.

-spec specs(context | listener) -> [{Name :: term(), Arguments :: term()}].
specs(Kind) ->
    select([{{{spec, {Kind, '$1'}}, '$2'}, [], [{{'$1', '$2'}}]}]).

-spec context_rows() -> [{pid(), py_nif:ctx() | undefined}].
context_rows() ->
    select([{{{pid, '$1'}, '_', '$2'}, [], [{{'$1', '$2'}}]}]).

%% Before the application starts, and after it stops, there is simply nothing.
-spec lookup(term()) -> [tuple()].
lookup(Key) ->
    try
        ets:lookup(?TABLE, Key)
    catch
        error:badarg -> []
    end.

%% For those who tidy up behind them when the table's owner was killed.
-spec unless_gone(fun(() -> term())) -> ok.
unless_gone(Tidy) ->
    try Tidy() of
        _ -> ok
    catch
        error:badarg -> ok
    end.

-spec select(ets:match_spec()) -> [term()].
select(Pattern) ->
    try
        ets:select(?TABLE, Pattern)
    catch
        error:badarg -> []
    end.
