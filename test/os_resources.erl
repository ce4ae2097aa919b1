%% What this VM holds of the operating system and of itself.
-module(os_resources).

-export([snapshot/0, wait_back_to/1]).

snapshot() ->
    Descriptors = descriptors(),
    {ok, Threads} = file:list_dir("/proc/self/task"),
    #{descriptors => length(Descriptors), threads => length(Threads), ports => length(erlang:ports())}.

%% Waits until nothing is left of what was there beyond a snapshot. What only garbage refers to is not there.
wait_back_to(Before) ->
    reactor_test:wait_equal(#{}, fun() ->
        _ = [erlang:garbage_collect(Pid) || Pid <- processes()],
        Now = snapshot(),
        maps:from_list([
            {Key, {was, Count, is, map_get(Key, Now), what(Key)}}
         || {Key, Count} <- maps:to_list(Before), map_get(Key, Now) > Count
        ])
    end).

descriptors() ->
    {ok, Descriptors} = file:list_dir("/proc/self/fd"),
    Descriptors.

%% What there is, for whoever has to find out what is left.
what(descriptors) ->
    [{Number, file:read_link("/proc/self/fd/" ++ Number)} || Number <- descriptors()];
what(_) ->
    not_listed.
