%% @doc Sends what Python has for processes of other nodes, which native code cannot reach. The messages wait in the
%% native half, at most 1024; this process may be held up by a node that takes them slowly.
%% @private
-module(py_relay).
-behaviour(gen_server).

-export([start_link/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    case gen_server:start_link({local, ?MODULE}, ?MODULE, [], []) of
        {ok, Pid} -> {ok, Pid};
        {error, _} = Error -> Error
    end.

%% What a predecessor left, or came before there was anybody to wake, is still there.
-spec init([]) -> {ok, [], {continue, relay}}.
init([]) ->
    {ok, [], {continue, relay}}.

-spec handle_continue(relay, []) -> {noreply, []}.
handle_continue(relay, State) ->
    ok = relay(),
    {noreply, State}.

-spec handle_call(term(), gen_server:from(), []) -> {reply, term(), []}.
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), []) -> {noreply, []}.
handle_cast(_Unknown, State) ->
    {noreply, State}.

%% The native half says that something waits.
-spec handle_info(term(), []) -> {noreply, []}.
handle_info(?MODULE, State) ->
    ok = relay(),
    {noreply, State};
handle_info(_Unknown, State) ->
    {noreply, State}.

-spec relay() -> ok.
relay() ->
    case py_nif:relay_take() of
        [] ->
            ok;
        Messages ->
            _ = [To ! Message || {To, Message} <- Messages],
            relay()
    end.
