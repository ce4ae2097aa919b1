%% @doc Runs what contexts need of Erlang while they start, serve and stop: the relay to other nodes, and the calls of Erlang
%% functions. A crash of either harms no context.
%% @private
-module(py_service_sup).
-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Flags = #{strategy => one_for_one, intensity => 10, period => 60},
    {ok, {Flags, [#{id => Module, start => {Module, start_link, []}} || Module <- [py_relay, py_functions]]}}.
